"""Registers the usage app."""

from django.apps import AppConfig


class UsageConfig(AppConfig):
    """What was used, counted once, for ever."""

    name = "tilth.usage"
    label = "usage"
