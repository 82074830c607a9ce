"""``manage.py sync_prices``: the prices that installed verticals declare become rows of the price list."""

from typing import Any

from django.core.management.base import BaseCommand

from tilth.usage.services import prices_sync


class Command(BaseCommand):
    """Doing it twice changes nothing; a changed price is a new row, valid from now on."""

    help = "Adds new and changed prices of the installed verticals to the price list"

    def handle(self, *args: Any, **options: Any) -> None:
        """Prints what is new."""
        for price in prices_sync():
            self.stdout.write(f"{price.unit}: {price.micro_usd} micro-USD per {price.per_quantity}")
