"""What is on offer, for everybody who may read models."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.catalog import selectors
from tilth.contract.vertical import Vertical
from tilth.core.openapi import listed
from tilth.tenants.scopes import Scope


class VerticalListView(APIView):
    """Installed verticals."""

    scopes: ClassVar = {"GET": Scope.MODELS_READ}

    class Out(serializers.Serializer[Any]):
        class Role(serializers.Serializer[Any]):
            role = serializers.CharField()
            kind = serializers.CharField()
            title = serializers.CharField()
            required = serializers.BooleanField()  # type: ignore[assignment]  # a field of ours
            aliases = serializers.ListField(child=serializers.CharField())

        class Metric(serializers.Serializer[Any]):
            name = serializers.CharField()
            title = serializers.CharField()
            higher_is_better = serializers.BooleanField()

        class BaseModel(serializers.Serializer[Any]):
            id = serializers.CharField()
            title = serializers.CharField()
            licence = serializers.CharField()
            memory_mb = serializers.IntegerField()

        class Unit(serializers.Serializer[Any]):
            name = serializers.CharField()
            title = serializers.CharField()
            micro_usd = serializers.IntegerField()
            per_quantity = serializers.IntegerField()

        name = serializers.CharField()
        title = serializers.CharField()
        description = serializers.CharField()
        roles = Role(many=True)
        metrics = Metric(many=True)
        base_models = BaseModel(many=True)
        units = Unit(many=True)
        widgets = serializers.ListField(child=serializers.CharField())

    @extend_schema(responses=listed(Out))
    def get(self, request: Request) -> Response:
        """Their roles, metrics, base models and list prices."""
        return Response({"object": "list", "data": [self.Out(_shown(face)).data for face in selectors.vertical_list()]})


def _shown(face: Vertical) -> dict[str, Any]:
    return {**face.model_dump(exclude={"schema_", "task"}), "roles": [f.model_dump() for f in face.schema_.fields]}
