"""The management API of billing: the invoice preview."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.billing.pricing import Invoice, Line
from tilth.billing.selectors import invoice_preview
from tilth.core.clock import now
from tilth.core.money import dollars
from tilth.core.serializers import DAYS, valid_query
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope


@extend_schema_field({"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}$"})
class Month(serializers.DateField):
    """``2026-11``."""


class InvoiceView(APIView):
    """What a month costs so far."""

    scopes: ClassVar = {"GET": Scope.USAGE_READ}

    class In(serializers.Serializer[Any]):
        month = serializers.DateField(
            required=False,
            validators=DAYS,
            input_formats=["%Y-%m"],
            help_text="``2026-11``; by default the current one",
        )

    class Out(serializers.Serializer[Any]):
        class LineOut(serializers.Serializer[Any]):
            unit = serializers.CharField()
            title = serializers.CharField()
            quantity = serializers.IntegerField()
            micro_usd = serializers.IntegerField(help_text="The price: so much for each per_quantity")
            per_quantity = serializers.IntegerField()
            amount_cents = serializers.IntegerField()
            amount = serializers.CharField()

        month = serializers.CharField()
        currency = serializers.CharField()
        lines = LineOut(many=True)
        total_cents = serializers.IntegerField()
        total = serializers.CharField()

    @extend_schema(parameters=[In], responses=Out)
    def get(self, request: Request) -> Response:
        """Lines by price, each rounded once to the cent."""
        month = valid_query(self.In, request).get("month", now().date()).replace(day=1)
        found = invoice_preview(tenant=principal_of(request).tenant, month=month)
        return Response(self.Out(_shown(found)).data)


def _shown(invoice: Invoice) -> dict[str, Any]:
    return {
        "month": f"{invoice.month:%Y-%m}",
        "currency": "usd",
        "lines": [_line(line) for line in invoice.lines],
        "total_cents": invoice.total_cents,
        "total": dollars(invoice.total_cents),
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "unit": line.unit,
        "title": line.title,
        "quantity": line.quantity,
        "micro_usd": line.price.micro_usd,
        "per_quantity": line.price.per_quantity,
        "amount_cents": line.amount_cents,
        "amount": dollars(line.amount_cents),
    }
