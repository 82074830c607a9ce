"""What an organisation's usage costs so far."""

from datetime import date
from uuid import UUID

from tilth.billing.pricing import Invoice, Used, invoice
from tilth.core.money import Price
from tilth.usage.selectors import month_quantities


def invoice_preview(*, tenant: UUID, month: date) -> Invoice:
    """The month's invoice as of now; what is recorded and not folded yet is in it."""
    used = [
        Used(price.unit, price.title, Price(price.micro_usd, price.per_quantity), quantity)
        for price, quantity in month_quantities(tenant=tenant, month=month)
    ]
    return invoice(month, used)
