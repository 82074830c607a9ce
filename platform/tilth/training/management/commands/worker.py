"""``manage.py worker``: checks files, dispatches, pulls, answers batches, loads, folds; one leads, others stand by."""

import signal
from typing import Any

from django.core.management.base import BaseCommand

from tilth.batches.pace import AT_ONCE
from tilth.batches.reader import Reader
from tilth.batches.runner import Runner
from tilth.core.loops import Crew, Leader, Loop
from tilth.core.rls import refuse_mighty_roles
from tilth.dataplane.access import data_plane, grants
from tilth.serving.loader import Loader
from tilth.training.dispatcher import Dispatcher
from tilth.training.puller import Puller, PullLoop
from tilth.training.tasks_worker import TaskWorker
from tilth.training.validator import Validator
from tilth.usage.fold import fold_once, sweep_holds


class Command(BaseCommand):
    """Ends cleanly on SIGTERM; losing the database or the data plane never ends it."""

    help = "Works until it is told to stop"

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs the loops in threads and waits for a signal."""
        refuse_mighty_roles()
        plane, by = data_plane(), grants()
        leader = Leader(
            [
                Loop("validator", Validator(Crew(2, "validator")).step, every_s=2),
                Loop("dispatcher", Dispatcher(plane, by).step, every_s=0.5),
                Loop("puller", PullLoop(Puller(plane, by), Crew(8, "puller")).step, every_s=0.2),
                Loop("reader", Reader(Crew(1, "reader")).step, every_s=2),
                Loop("batches", Runner(plane, by, Crew(AT_ONCE, "batches")).step, every_s=0.2),
                Loop("loader", Loader(plane, by).step, every_s=5),
                Loop("fold", fold_once, every_s=1),
                Loop("sweep", sweep_holds, every_s=30),
            ]
        )
        tasks = TaskWorker()

        def end(*_: Any) -> None:
            leader.stop()
            tasks.stop()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        tasks.start()
        leader.run()
        tasks.join()
