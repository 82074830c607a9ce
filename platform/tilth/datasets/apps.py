"""Registers the datasets app."""

from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    """A customer's rows, from upload to a frozen version."""

    name = "tilth.datasets"
    label = "datasets"
