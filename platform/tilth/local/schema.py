"""``python -m tilth.local.schema``: brings the schema and the price list up to date, as the owner, in one process."""

import sys

import django
from django.core.management import call_command


def main() -> int:
    """Doing it again changes nothing."""
    django.setup()
    call_command("migrate", database="owner", verbosity=0)
    call_command("sync_prices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
