"""Registers the batches app."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Predictions over whole files."""

    name = "tilth.batches"
    label = "batches"
