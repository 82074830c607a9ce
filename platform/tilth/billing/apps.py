"""Registers the billing app."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """What the usage costs."""

    name = "tilth.billing"
    label = "billing"
