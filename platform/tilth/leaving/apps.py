"""Registers the leaving app."""

from django.apps import AppConfig


class LeavingConfig(AppConfig):
    """Export and erasure of one organisation."""

    name = "tilth.leaving"
    label = "leaving"
