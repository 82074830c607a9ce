"""A real worker in a process of its own, forked from a server that has everything imported already."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import django

django.setup()

from django.conf import settings  # noqa: E402
from tilth.dataplane.fake import FakeDataPlane  # noqa: E402
from tilth.dataplane.fake_http import served  # noqa: E402
from tilth.dataplane.keys import signing_key  # noqa: E402
from tilth.training.management.commands.worker import Command  # noqa: E402


def work(dataplane_url: str, crash_at: str) -> None:
    """``manage.py worker`` against that data plane, until SIGTERM or the crash point."""
    settings.ENV = dataclasses.replace(settings.ENV, dataplane_url=dataplane_url, crash_at=crash_at)
    Command().handle()


@contextmanager
def workers(plane: FakeDataPlane) -> Iterator[Callable[[str], BaseProcess]]:
    """Starts ``manage.py worker`` with a crash point, over the fake data plane behind HTTP; none outlives the test."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started: list[BaseProcess] = []
    with served(plane, signing_key().public_key()) as url:

        def start(crash_at: str) -> BaseProcess:
            process = context.Process(target=work, args=(url, crash_at))
            process.start()
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.join()
