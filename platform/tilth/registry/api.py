"""OpenAI's models API: base models on offer and the organisation's own."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.catalog.selectors import base_model_get, base_model_list
from tilth.contract.vertical import BaseModelOffer
from tilth.core.openapi import listed
from tilth.core.serializers import Deleted
from tilth.registry import selectors, services
from tilth.registry.models import Model
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope
from tilth.tenants.selectors import organisation_get


class ModelListView(APIView):
    """``models.list``."""

    scopes: ClassVar = {"GET": Scope.MODELS_READ}

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        object = serializers.CharField()
        created = serializers.IntegerField()
        owned_by = serializers.CharField()
        licence = serializers.CharField(required=False, help_text="Of a base model")
        base_model = serializers.CharField(
            required=False, help_text="This and the following: of the organisation's own"
        )
        vertical = serializers.CharField(required=False)
        digest = serializers.CharField(required=False)
        metrics = serializers.JSONField(required=False)

    @extend_schema(responses=listed(Out))
    def get(self, request: Request) -> Response:
        """Own models first, newest first, then base models."""
        tenant = principal_of(request).tenant
        owner = organisation_get(tenant=tenant).slug
        own = [_own(model, owner) for model in selectors.model_list(tenant=tenant)]
        return Response({"object": "list", "data": [*own, *[_base(offer) for offer in base_model_list()]]})


class ModelView(APIView):
    """``models.retrieve`` and ``models.delete``."""

    scopes: ClassVar = {"GET": Scope.MODELS_READ, "DELETE": Scope.MODELS_WRITE}

    class Detailed(ModelListView.Out):
        rung = serializers.CharField(required=False)
        lineage = serializers.JSONField(required=False)
        report = serializers.JSONField(required=False)
        card = serializers.CharField(required=False)

    @extend_schema(responses=Detailed)
    def get(self, request: Request, model: str) -> Response:
        """One model."""
        tenant = principal_of(request).tenant
        if selectors.is_base_model(model):
            return Response(_base(base_model_get(model)))
        found = selectors.model_get(tenant=tenant, name=model)
        return Response(_detailed(found, organisation_get(tenant=tenant).slug))

    @extend_schema(responses={200: Deleted})
    def delete(self, request: Request, model: str) -> Response:
        """Own models only."""
        by = principal_of(request)
        services.model_delete(tenant=by.tenant, by=by, name=model)
        return Response({"id": model, "object": "model", "deleted": True})


def _base(offer: BaseModelOffer) -> dict[str, Any]:
    return {"id": offer.id, "object": "model", "created": 0, "owned_by": "tilth", "licence": offer.licence}


def _own(model: Model, owner: str) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": owner,
        "base_model": model.base_model,
        "vertical": model.vertical,
        "digest": model.digest,
        "metrics": model.metrics,
    }


def _detailed(model: Model, owner: str) -> dict[str, Any]:
    lineage = {
        "job": f"ftjob-{model.job_id.hex}",
        "dataset": f"dsv-{model.version_id.hex}",
        "dataset_sha256": model.version_sha256,
        "base_revision": model.base_revision,
    }
    return {**_own(model, owner), "rung": model.rung, "lineage": lineage, "report": model.report, "card": model.card}
