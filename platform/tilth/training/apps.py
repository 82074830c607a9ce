"""Registers the training app."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    """Jobs from queued to done."""

    name = "tilth.training"
    label = "training"
