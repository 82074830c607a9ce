"""Registers the tenants app."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Who belongs to which organisation, and with which rights."""

    name = "tilth.tenants"
    label = "tenants"
