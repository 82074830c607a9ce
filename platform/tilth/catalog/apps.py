"""Registers the catalog app."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """What may be trained."""

    name = "tilth.catalog"
    label = "catalog"
