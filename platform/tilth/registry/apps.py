"""Registers the registry app."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    """Models that jobs made."""

    name = "tilth.registry"
    label = "registry"
