"""The price list: what installed verticals declare becomes rows; the newest row of a unit is its price."""

from datetime import datetime

from django.db import connection, transaction

from tilth.contract.registry import verticals
from tilth.contract.vertical import BillableUnit
from tilth.core.clock import now
from tilth.core.errors import Unavailable
from tilth.usage.models import Price


class PricesDisagree(RuntimeError):
    """Two verticals declare the same unit at different prices; tells which."""


def price_current(*, unit: str) -> Price:
    """The price of a unit as of now; a unit that is only declared gets its row. Raises Unavailable for others."""
    found = _newest(unit)
    if found is None:
        prices_sync()
        found = _newest(unit)
    if found is None:
        raise Unavailable(f"No installed vertical declares a price for {unit!r}; the operator must install one.")
    return found


def price_at(*, unit: str, moment: datetime) -> Price:
    """The price of a unit as it was at a moment; the current one if it had none then. Raises Unavailable."""
    then = Price.objects.filter(unit=unit, effective_from__lte=moment).order_by("-effective_from").first()
    return then or price_current(unit=unit)


@transaction.atomic
def prices_sync() -> list[Price]:
    """Adds a row for each declared unit that has none or another price than its newest; returns the new rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('usage.prices', 0))")
    return [_add(unit) for unit in declared_units().values() if not _is_listed(unit)]


def declared_units() -> dict[str, BillableUnit]:
    """Every unit of the installed verticals by name; raises PricesDisagree."""
    found: dict[str, BillableUnit] = {}
    for face in verticals().values():
        for unit in face.units:
            known = found.setdefault(unit.name, unit)
            if (known.micro_usd, known.per_quantity) != (unit.micro_usd, unit.per_quantity):
                raise PricesDisagree(
                    f"the unit {unit.name!r} has two prices, one of them from {face.name!r}; rename one of the units"
                )
    return found


def _newest(unit: str) -> Price | None:
    return Price.objects.filter(unit=unit, effective_from__lte=now()).order_by("-effective_from").first()


def _is_listed(unit: BillableUnit) -> bool:
    newest = _newest(unit.name)
    return newest is not None and (newest.micro_usd, newest.per_quantity) == (unit.micro_usd, unit.per_quantity)


def _add(unit: BillableUnit) -> Price:
    return Price.objects.create(
        unit=unit.name, title=unit.title, micro_usd=unit.micro_usd, per_quantity=unit.per_quantity
    )
