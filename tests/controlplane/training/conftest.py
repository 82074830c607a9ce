"""A worker without its process: dispatcher, puller and validator stepped by hand, over the fake data plane."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tilth.dataplane.access import grants
from tilth.dataplane.fake import FakeDataPlane
from tilth.dataplane.keys import signing_key
from tilth.dataplane.port import DataPlane

ROWS = "text,label\n" + "".join(f"message number {n},{('red', 'green')[n % 2]}\n" for n in range(60))

CHECKED: dict[Any, tuple[dict[str, Any], Path]] = {}


@dataclass
class Rig:
    """Everything that moves jobs on."""

    plane: FakeDataPlane
    make_file: Callable[..., UUID]

    def __post_init__(self) -> None:
        self.reach(self.plane)

    def reach(self, plane: DataPlane) -> None:
        """From now on the worker calls this one."""
        from tilth.core.loops import Crew
        from tilth.serving.loader import Loader
        from tilth.training.dispatcher import Dispatcher
        from tilth.training.puller import Puller
        from tilth.training.validator import Validator

        self.dispatcher = Dispatcher(plane, grants())
        self.puller = Puller(plane, grants())
        self.validator = Validator(Crew(1, "test"))
        self.loader = Loader(plane, grants())

    def create(self, tenant: Any, **order: Any) -> UUID:
        """A job whose files are still to be checked."""
        from tilth.training.services import Order, job_create

        order = {"vertical": "support_chat", "base_model": "minilm-l6", **order}
        order.setdefault("training_file", self.make_file(tenant))
        return job_create(tenant=tenant.id, by=tenant.principal, order=Order(**order))

    def queued(self, tenant: Any, **order: Any) -> UUID:
        """A job in the queue."""
        job = self.create(tenant, **order)
        self.validator.validate(tenant.id, job)
        return job

    def pull(self) -> None:
        """Looks at every attempt once."""
        from tilth.training.queue import active_attempts

        for attempt in active_attempts():
            if attempt.dispatched:
                self.puller.pull(attempt)

    def turn(self) -> None:
        """One round of the worker."""
        self.dispatcher.step()
        self.pull()

    def job(self, tenant: Any, job: UUID) -> Any:
        """The job's row."""
        from tilth.training.selectors import job_get

        return job_get(tenant=tenant.id, job=job).job

    def story(self, tenant: Any, job: UUID) -> list[str]:
        """What the customer reads, oldest first."""
        from tilth.training.selectors import event_list

        events, _ = event_list(tenant=tenant.id, job=job, limit=1000)
        return [event.message for event in reversed(events)]


@pytest.fixture
def plane() -> FakeDataPlane:
    """Honours the grants of this installation; one trainer."""
    return FakeDataPlane(signing_key().public_key())


@pytest.fixture
def make_file(artifacts: Path) -> Callable[..., UUID]:
    """An uploaded file of labelled rows."""
    from tilth.core.ids import uuid7
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_create, file_path

    def make(tenant: Any, content: str = ROWS, filename: str = "rows.csv", purpose: str = "fine-tune") -> UUID:
        file = uuid7()
        stored = put_stream(file_path(tenant.id, file), [content.encode()])
        by = tenant.principal
        return file_create(tenant=tenant.id, by=by, file=file, filename=filename, purpose=purpose, stored=stored).id

    return make


@pytest.fixture
def checked_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same bytes are checked by one child for all tests of training: what it does is tested with the data sets."""
    from tilth.datasets import freezing, sandbox

    def run_child(order: dict[str, Any], at: Path) -> dict[str, Any]:
        contents = tuple(Path(source["path"]).read_bytes() for source in order["sources"])
        key = (contents, repr(order["wish"]), *(source["param"] for source in order["sources"]))
        if key not in CHECKED:
            kept = tmp_path_factory.mktemp("checked") / "rows.parquet"
            CHECKED[key] = (sandbox.run_child(order, at), kept)
            shutil.copyfile(order["out"], kept)
        report, kept = CHECKED[key]
        shutil.copyfile(kept, order["out"])
        return copy.deepcopy(report)

    monkeypatch.setattr(freezing, "run_child", run_child)


@pytest.fixture
def rig(clean_database: None, checked_once: None, plane: FakeDataPlane, make_file: Callable[..., UUID]) -> Rig:
    """A worker stepped by hand, in a database without other jobs."""
    return Rig(plane, make_file)
