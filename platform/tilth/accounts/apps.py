"""Registers the accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users are global: one person may belong to several organisations."""

    name = "tilth.accounts"
    label = "accounts"
