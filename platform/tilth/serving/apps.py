"""Registers the serving app."""

from django.apps import AppConfig


class ServingConfig(AppConfig):
    """What answers predictions."""

    name = "tilth.serving"
    label = "serving"
