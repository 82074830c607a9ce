"""Registers the core app and its start-up checks."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """The core has no tables of tenants."""

    name = "tilth.core"
    label = "core"

    def ready(self) -> None:
        """Hooks the refusal of over-mighty database roles into each new connection."""
        from django.db.backends.signals import connection_created

        from tilth.core.rls import refuse_mighty_role

        connection_created.connect(refuse_mighty_role, dispatch_uid="refuse_mighty_role")
