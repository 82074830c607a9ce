"""``manage.py tenant_erase``: an organisation is gone for good; prints a certificate."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tilth.core import storage
from tilth.core.errors import TilthError
from tilth.core.ids import parse
from tilth.core.keystore import KeyStore
from tilth.dataplane.access import data_plane
from tilth.leaving.erasure import tenant_erase


class Command(BaseCommand):
    """Killed anywhere, the same command goes on."""

    help = "Erases an organisation and destroys its key, so that its objects in backups cannot be read either"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which, the name as confirmation, and where its key is mirrored."""
        parser.add_argument("--organisation", required=True, help="org-<hex>, as pages and the API show it")
        parser.add_argument("--confirm", default="", help="its name")
        parser.add_argument(
            "--keys", type=Path, action="append", default=[], help="a mirror of the keys, to follow now"
        )
        parser.add_argument(
            "--restored", action="store_true", help="in a product being restored: no trainer is at work"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """One line of JSON."""
        try:
            tenant = parse("org", options["organisation"])
            plane = None if options["restored"] else data_plane()
            certificate = tenant_erase(tenant=tenant, name=options["confirm"], plane=plane)
        except (TilthError, OSError) as error:
            raise CommandError(str(error)) from error
        for mirror in options["keys"]:
            KeyStore(mirror / "tenants").take_over(storage.key_store())
        self.stdout.write(json.dumps(vars(certificate)))
