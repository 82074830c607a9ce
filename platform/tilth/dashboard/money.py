"""The page of usage: lines, budget, invoice preview."""

from datetime import timedelta

from django.http import HttpRequest, HttpResponse

from tilth.billing.selectors import invoice_preview
from tilth.core.clock import now
from tilth.core.money import dollars, dollars_exact
from tilth.dashboard.pages import page, show
from tilth.tenants.principal import Principal
from tilth.tenants.scopes import Scope
from tilth.usage.selectors import budget_get, usage_lines


@page(Scope.USAGE_READ)
def usage(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The last 30 days, and this month's invoice so far."""
    today = now().date()
    lines = usage_lines(tenant=principal.tenant, first=today - timedelta(days=30), last=today)
    invoice = invoice_preview(tenant=principal.tenant, month=today.replace(day=1))
    budget = budget_get(tenant=principal.tenant)
    amounts = [(line, dollars(line.amount_cents)) for line in invoice.lines]
    left = dollars_exact(budget.limit_micro_usd - budget.spent_micro_usd - budget.held_micro_usd)
    context = {"lines": lines, "amounts": amounts, "total": dollars(invoice.total_cents), "left": left}
    return show(request, principal, "usage.html", page="usage", month=invoice.month, **context)
