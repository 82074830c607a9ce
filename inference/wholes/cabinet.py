"""Which whole models are in memory: least recently used out when they grow too large."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from safetensors import SafetensorError
from tilth.contract.messages import ModelRef
from tilth.contract.registry import vertical

from inference.adapters.folder import FolderRefused
from inference.engine.base_models import Bases
from inference.engine.task import Features, Reopens, Task, Whole, load_task
from inference.wholes.folder import WholeFolder

UNREADABLE = (KeyError, ValueError, TypeError, RuntimeError, SafetensorError)
"""What readers say of bytes that are no model's."""


@dataclass(frozen=True)
class Filed:
    """A model that can answer; its digest is that of the bytes it was made of."""

    task: Task
    features: Features
    model: Whole
    digest: str
    generation: int


class Cabinet:
    """At most ``capacity`` bytes of models, and always the one last asked for; safe from several threads."""

    def __init__(self, capacity: int, bases: Bases) -> None:
        self._capacity = capacity
        self._bases = bases
        self._models: OrderedDict[str, Filed] = OrderedDict()
        self._lock = threading.Lock()
        self._made = 0

    def __len__(self) -> int:
        return len(self._models)

    def known(self, digest: str) -> Filed | None:
        """The model of that digest, if it is in memory."""
        with self._lock:
            if found := self._models.get(digest):
                self._models.move_to_end(digest)
            return found

    def load(self, ref: ModelRef, fetch: Callable[[], WholeFolder]) -> Filed:
        """The model from storage; raises FolderRefused if that holds another, or cannot be read."""
        folder = fetch()
        if folder.digest != ref.digest:
            raise FolderRefused(f"asked for {ref.digest}, the bytes in storage have {folder.digest}")
        task, model = self._opened(folder, ref)
        with self._lock:
            self._made += 1
            filed = Filed(task, folder.features, model, folder.digest, self._made)
            self._models[ref.digest] = filed
            while len(self._models) > 1 and sum(each.model.held for each in self._models.values()) > self._capacity:
                self._models.popitem(last=False)
        return filed

    def _opened(self, folder: WholeFolder, ref: ModelRef) -> tuple[Task, Whole]:
        face = vertical(ref.vertical)
        task = load_task(face)
        if not isinstance(task, Reopens):
            raise FolderRefused(f"{ref.vertical} has no whole models; its models are adapters")
        try:
            return task, task.reopen(
                folder.kind, folder.files, folder.features, lambda: self._bases.get(face.base_model(ref.base_model))
            )
        except UNREADABLE as cause:
            raise FolderRefused(f"the model {folder.kind!r} cannot be read from its files: {cause!r}") from cause
