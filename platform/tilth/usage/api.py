"""The management API of usage: lines by day, single events, the budget, the ledger's balances."""

from datetime import timedelta
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.core import ids
from tilth.core.clock import now
from tilth.core.errors import Invalid
from tilth.core.money import MICRO
from tilth.core.openapi import listed
from tilth.core.pages import PageQuery, cursor, rendered
from tilth.core.serializers import DAYS, Strict, valid, valid_query
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope
from tilth.usage import selectors, services
from tilth.usage.models import Budget, UsageEvent

LONGEST = timedelta(days=366)


class UsageView(APIView):
    """What was used, by day."""

    scopes: ClassVar = {"GET": Scope.USAGE_READ}

    class In(serializers.Serializer[Any]):
        first = serializers.DateField(
            required=False, validators=DAYS, help_text="First day, UTC; by default 30 days ago"
        )
        last = serializers.DateField(required=False, validators=DAYS, help_text="Last day, UTC; by default today")

    class Out(serializers.Serializer[Any]):
        day = serializers.DateField()
        subject = serializers.CharField(help_text="The model that answered, or the job that was run")
        unit = serializers.CharField()
        title = serializers.CharField()
        quantity = serializers.IntegerField()
        events = serializers.IntegerField()
        cost_micro_usd = serializers.IntegerField()

    @extend_schema(parameters=[In], responses=listed(Out))
    def get(self, request: Request) -> Response:
        """One line for each day, model or job, and unit; newest first."""
        query, today = valid_query(self.In, request), now().date()
        last = query.get("last", today)
        first = query.get("first", last - timedelta(days=30))
        if not first <= last <= first + LONGEST:
            raise Invalid(f"Ask for 1 to {LONGEST.days} days, found {first} to {last}.", param="first")
        lines = selectors.usage_lines(tenant=principal_of(request).tenant, first=first, last=last)
        return Response({"object": "list", "data": self.Out(lines, many=True).data})


class UsageEventListView(APIView):
    """Every single use."""

    scopes: ClassVar = {"GET": Scope.USAGE_READ}

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        source = serializers.CharField()  # type: ignore[assignment]  # a field of ours, not DRF's option
        event_id = serializers.CharField()
        occurred_at = serializers.DateTimeField()
        subject = serializers.CharField()
        unit = serializers.CharField()
        quantity = serializers.IntegerField()
        micro_usd = serializers.IntegerField(help_text="The price: so much for each per_quantity")
        per_quantity = serializers.IntegerField()
        key = serializers.CharField(allow_null=True)
        data = serializers.JSONField()  # type: ignore[assignment]

    @extend_schema(parameters=[PageQuery], responses=listed(Out, paged=True))
    def get(self, request: Request) -> Response:
        """Newest first; page on with ``after``."""
        query = valid_query(PageQuery, request)
        events, more = selectors.event_page(
            tenant=principal_of(request).tenant, after=cursor("usage", query["after"]), limit=query["limit"]
        )
        return Response(rendered(events, more, _event))


class BudgetView(APIView):
    """The month's budget."""

    scopes: ClassVar = {"GET": Scope.USAGE_READ, "PATCH": Scope.BUDGET_WRITE}

    class In(Strict):
        limit_micro_usd = serializers.IntegerField(min_value=0, max_value=10**9 * MICRO)

    class Out(serializers.Serializer[Any]):
        month = serializers.DateField()
        limit_micro_usd = serializers.IntegerField()
        spent_micro_usd = serializers.IntegerField()
        held_micro_usd = serializers.IntegerField(help_text="Kept for what is under way")
        left_micro_usd = serializers.IntegerField()

    @extend_schema(responses=Out)
    def get(self, request: Request) -> Response:
        """Limit, spent, held and what is left."""
        return Response(self.Out(_budget(selectors.budget_get(tenant=principal_of(request).tenant))).data)

    @extend_schema(request=In, responses=Out)
    def patch(self, request: Request) -> Response:
        """Another limit, from this month on."""
        by = principal_of(request)
        changed = services.budget_change(tenant=by.tenant, by=by, **valid(self.In, request))
        return Response(self.Out(_budget(changed)).data)


class LedgerView(APIView):
    """Balances of the ledger's accounts."""

    scopes: ClassVar = {"GET": Scope.USAGE_READ}

    class Out(serializers.Serializer[Any]):
        month = serializers.DateField()
        account = serializers.CharField()
        balance_micro_usd = serializers.IntegerField()

    @extend_schema(responses=listed(Out))
    def get(self, request: Request) -> Response:
        """By month; each month's balances sum to zero."""
        found = selectors.ledger_balances(tenant=principal_of(request).tenant)
        lines = [{"month": month, "account": account, "balance_micro_usd": sum_} for month, account, sum_ in found]
        return Response({"object": "list", "data": self.Out(lines, many=True).data})


def _event(event: UsageEvent) -> dict[str, Any]:
    return {
        "id": ids.public("usage", event.id),
        "source": event.source,
        "event_id": event.event_id,
        "occurred_at": event.occurred_at.isoformat(),
        "subject": event.subject,
        "unit": event.price.unit,
        "quantity": event.quantity,
        "micro_usd": event.price.micro_usd,
        "per_quantity": event.price.per_quantity,
        "key": ids.public("key", event.key) if event.key else None,
        "data": event.data,
    }


def _budget(budget: Budget) -> dict[str, Any]:
    left = budget.limit_micro_usd - budget.spent_micro_usd - budget.held_micro_usd
    return {
        "month": budget.month,
        "limit_micro_usd": budget.limit_micro_usd,
        "spent_micro_usd": budget.spent_micro_usd,
        "held_micro_usd": budget.held_micro_usd,
        "left_micro_usd": max(left, 0),
    }
