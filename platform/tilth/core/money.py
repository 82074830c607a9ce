"""Money is integers of micro-units; a price is (micro_usd, per_quantity)."""

from dataclasses import dataclass

MICRO = 1_000_000
MICRO_PER_CENT = 10_000


@dataclass(frozen=True)
class Price:
    """micro_usd for each per_quantity units."""

    micro_usd: int
    per_quantity: int

    def floor(self, quantity: int) -> int:
        """Micro-USD of a quantity, rounded down: postings carry the remainder on."""
        return quantity * self.micro_usd // self.per_quantity

    def ceil(self, quantity: int) -> int:
        """Micro-USD of a quantity, rounded up: holds never promise less than the cost."""
        return -(-quantity * self.micro_usd // self.per_quantity)


def cents(quantity: int, price: Price) -> int:
    """Cents of an invoice line, rounded half up, once."""
    whole = price.per_quantity * MICRO_PER_CENT
    return (2 * quantity * price.micro_usd + whole) // (2 * whole)


def dollars(amount_cents: int) -> str:
    """``$12.34``, for people."""
    sign = "-" if amount_cents < 0 else ""
    return f"{sign}${abs(amount_cents) // 100:,}.{abs(amount_cents) % 100:02d}"


def dollars_exact(micro_usd: int) -> str:
    """``$0.001234``, for people who look at single requests."""
    sign = "-" if micro_usd < 0 else ""
    return f"{sign}${abs(micro_usd) // MICRO:,}.{abs(micro_usd) % MICRO:06d}"
