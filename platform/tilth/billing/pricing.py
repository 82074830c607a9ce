"""Prices usage: pure functions over integers; money is rounded once, per invoice line."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from tilth.core.money import Price, cents


@dataclass(frozen=True)
class Used:
    """A month's quantity at one price."""

    unit: str
    title: str
    price: Price
    quantity: int


@dataclass(frozen=True)
class Line:
    """One line of an invoice."""

    unit: str
    title: str
    price: Price
    quantity: int
    amount_cents: int


@dataclass(frozen=True)
class Invoice:
    """What a month costs, as far as it has gone."""

    month: date
    lines: tuple[Line, ...]
    total_cents: int
    """The sum of the lines as they are printed."""


def invoice(month: date, used: Iterable[Used]) -> Invoice:
    """One line for each price, by unit and price; a quantity of zero is no line."""
    found = [_line(one) for one in used if one.quantity]
    lines = tuple(sorted(found, key=lambda line: (line.unit, line.price.micro_usd, line.price.per_quantity)))
    return Invoice(month=month, lines=lines, total_cents=sum(line.amount_cents for line in lines))


def _line(used: Used) -> Line:
    return Line(used.unit, used.title, used.price, used.quantity, cents(used.quantity, used.price))
