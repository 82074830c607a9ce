"""Registers the dashboard app."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """Pages; all reads and writes go through the apps' selectors and services."""

    name = "tilth.dashboard"
    label = "dashboard"
