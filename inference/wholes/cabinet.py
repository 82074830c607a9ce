"""Which whole models are in memory: least recently used out when they grow too large; one load for all who wait."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from safetensors import SafetensorError
from tilth.contract.registry import vertical

from inference.adapters.folder import FolderRefused
from inference.engine.task import Features, Outputs, Reopens, Task, load_task
from inference.wholes.folder import WholeFolder

UNREADABLE = (KeyError, ValueError, TypeError, RuntimeError, SafetensorError)
"""What readers say of bytes that are no model's."""


@dataclass(frozen=True)
class Whole:
    """A model that can answer; its digest is that of the bytes it was made of."""

    task: Task
    features: Features
    outputs: Outputs
    digest: str
    generation: int
    bytes: int


class Cabinet:
    """At most ``capacity`` bytes of files, and always the one last asked for; safe from several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._models: OrderedDict[str, Whole] = OrderedDict()
        self._lock = threading.Lock()
        self._loads: dict[str, threading.Lock] = {}
        self._made = 0

    def get(self, digest: str, name: str, fetch: Callable[[], WholeFolder]) -> Whole:
        """The model of that digest and vertical; raises FolderRefused if storage holds another, or cannot be read."""
        if found := self._known(digest):
            return found
        with self._lock:
            loading = self._loads.setdefault(digest, threading.Lock())
        with loading:
            return self._known(digest) or self._load(digest, name, fetch)

    def __len__(self) -> int:
        return len(self._models)

    def _known(self, digest: str) -> Whole | None:
        with self._lock:
            if found := self._models.get(digest):
                self._models.move_to_end(digest)
            return found

    def _load(self, digest: str, name: str, fetch: Callable[[], WholeFolder]) -> Whole:
        folder = fetch()
        if folder.digest != digest:
            raise FolderRefused(f"asked for {digest}, the bytes in storage have {folder.digest}")
        task, model = _opened(folder, name)
        with self._lock:
            self._made += 1
            size = sum(map(len, folder.files.values()))
            whole = Whole(task, folder.features, model, folder.digest, self._made, size)
            self._models[digest] = whole
            self._loads.pop(digest, None)
            while len(self._models) > 1 and sum(each.bytes for each in self._models.values()) > self._capacity:
                self._models.popitem(last=False)
        return whole


def _opened(folder: WholeFolder, name: str) -> tuple[Task, Outputs]:
    task = load_task(vertical(name))
    if not isinstance(task, Reopens):
        raise FolderRefused(f"{name} has no whole models; its models are adapters")
    try:
        return task, task.reopen(folder.kind, folder.files, folder.features)
    except UNREADABLE as cause:
        raise FolderRefused(f"the model {folder.kind!r} cannot be read from its files: {cause!r}") from cause
