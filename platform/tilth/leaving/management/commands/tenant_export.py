"""``manage.py tenant_export``: an organisation's rows and objects as one zip."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tilth.core.errors import TilthError
from tilth.core.ids import parse
from tilth.leaving.export import tenant_export


class Command(BaseCommand):
    """The file is readable by us alone."""

    help = "Writes all that an organisation has here into a zip, in the clear"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which, and where to."""
        parser.add_argument("--organisation", required=True, help="org-<hex>, as pages and the API show it")
        parser.add_argument("--to", required=True, type=Path, help="the zip")

    def handle(self, *args: Any, **options: Any) -> None:
        """Says how many files there are."""
        try:
            sums = tenant_export(tenant=parse("org", options["organisation"]), to=options["to"])
        except (TilthError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{options['to']}: {len(sums)} files")
