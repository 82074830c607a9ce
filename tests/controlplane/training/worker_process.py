"""A real worker in a process of its own, forked from a server that has everything imported already."""

import dataclasses

import django

django.setup()

from django.conf import settings  # noqa: E402
from tilth.training.management.commands.worker import Command  # noqa: E402


def work(dataplane_url: str, crash_at: str) -> None:
    """``manage.py worker`` against that data plane, until SIGTERM or the crash point."""
    settings.ENV = dataclasses.replace(settings.ENV, dataplane_url=dataplane_url, crash_at=crash_at)
    Command().handle()
