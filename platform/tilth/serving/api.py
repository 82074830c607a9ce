"""The management API of deployments."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.core import ids
from tilth.core.idempotency import idempotent
from tilth.core.openapi import listed
from tilth.core.serializers import Strict, valid
from tilth.registry.selectors import model_get
from tilth.serving import selectors, services
from tilth.serving.models import Deployment
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope


class DeploymentListView(APIView):
    """Names and the models that answer under them."""

    scopes: ClassVar = {"GET": Scope.MODELS_READ, "POST": Scope.MODELS_WRITE}

    class In(Strict):
        name = serializers.RegexField(r"^[A-Za-z0-9][A-Za-z0-9:._-]*$", max_length=200)
        model = serializers.CharField(max_length=240)
        deterministic = serializers.BooleanField(
            default=False, help_text="Each row is computed alone: the same answer to the bit whoever else asks; slower."
        )

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        name = serializers.CharField()
        model = serializers.CharField()
        digest = serializers.CharField()
        deterministic = serializers.BooleanField()
        created_at = serializers.DateTimeField()

    @extend_schema(responses=listed(Out))
    def get(self, request: Request) -> Response:
        """Live ones."""
        found = selectors.deployment_list(tenant=principal_of(request).tenant)
        return Response({"object": "list", "data": [self.Out(_shown(deployment)).data for deployment in found]})

    @extend_schema(request=In, responses={201: Out})
    @idempotent
    def post(self, request: Request) -> Response:
        """A further name for a model."""
        body, tenant = valid(self.In, request), principal_of(request).tenant
        model = model_get(tenant=tenant, name=body["model"])
        made = services.deployment_create(
            tenant=tenant, name=body["name"], model=model.id, deterministic=body["deterministic"]
        )
        return Response(self.Out(_shown(made)).data, status=201)


class DeploymentView(APIView):
    """One deployment."""

    scopes: ClassVar = {"DELETE": Scope.MODELS_WRITE}

    @extend_schema(responses={204: None})
    def delete(self, request: Request, deployment: str) -> Response:
        """The name answers no more."""
        services.deployment_delete(tenant=principal_of(request).tenant, deployment=ids.parse("dep", deployment))
        return Response(status=204)


def _shown(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": ids.public("dep", deployment.id),
        "name": deployment.name,
        "model": deployment.model.name,
        "digest": deployment.model.digest,
        "deterministic": deployment.deterministic,
        "created_at": deployment.created_at,
    }
