"""``manage.py seed_demo``: a demo organisation with a user and an API key, printed as JSON."""

import json
import secrets
from typing import Any

from django.core.management.base import BaseCommand

from tilth.accounts.models import User
from tilth.core.ids import public
from tilth.tenants import selectors, services

NAME = "Demo organisation"


class Command(BaseCommand):
    """Each run makes its own user, so that nobody's password is ever changed."""

    help = "Makes an organisation, its owner and a key; prints {email, password, key, organisation, id}"

    def handle(self, *args: Any, **options: Any) -> None:
        """Writes one line of JSON to the output."""
        email, password = f"demo-{secrets.token_hex(3)}@example.org", secrets.token_urlsafe(12)
        owner = User.objects.create_user(email, password)
        tenant = services.organisation_create(name=NAME, owner=owner.id)
        by = selectors.principal_of_user(owner.id, tenant)
        if by is None:
            raise RuntimeError("the organisation was made without its owner")
        _, text = services.key_create(tenant=tenant, by=by, name="demo")
        made = {"email": email, "password": password, "key": text.secret, "organisation": NAME}
        made["id"] = public("org", tenant)
        self.stdout.write(json.dumps(made))
