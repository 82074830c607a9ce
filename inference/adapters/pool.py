"""Which adapter is in which slot: least recently used out, never one in use; host memory behind the slots."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from inference.adapters.folder import AdapterFolder, FolderRefused
from inference.adapters.slots import SlotTable

Fetch = Callable[[], AdapterFolder]


class NoSlotFree(Exception):
    """Every slot is answering somebody; worth a retry in a moment."""


@dataclass
class Slot:
    """A slot in use by so many requests."""

    number: int
    digest: str
    generation: int
    checksum: int
    pins: int = 0
    distrusted: bool = False
    """Its row held something else: nobody new is sent there, and it is filled anew once nobody uses it."""


class Pool:
    """Slots on the device and adapters in host memory; all calls are safe from several threads."""

    def __init__(self, table: SlotTable, *, remembered: int = 1024) -> None:
        self._table = table
        self._free = list(range(table.slots))
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._memory: OrderedDict[str, AdapterFolder] = OrderedDict()
        self._remembered = remembered
        self._lock = threading.RLock()
        self._scrubbed = 0

    @contextmanager
    def pinned(self, digest: str, fetch: Fetch) -> Iterator[Slot]:
        """The slot holding that digest, loaded if need be, and kept there meanwhile."""
        slot = self.pin(digest, fetch)
        try:
            yield slot
        finally:
            self.unpin(slot)

    def pin(self, digest: str, fetch: Fetch) -> Slot:
        """Takes the slot into use; FolderRefused if storage holds another digest, NoSlotFree if all are in use."""
        with self._lock:
            if (slot := self._slots.get(digest)) is not None:
                self._slots.move_to_end(digest)
                slot.pins += 1
                return slot
        folder = self._folder(digest, fetch)
        with self._lock:
            if digest not in self._slots:
                self._slots[digest] = self._load(folder)
            slot = self._slots[digest]
            slot.pins += 1
            return slot

    def unpin(self, slot: Slot) -> None:
        """One user less."""
        with self._lock:
            slot.pins -= 1
            if slot.distrusted and slot.pins == 0:
                self._free.append(slot.number)

    def distrust(self, slot: Slot) -> None:
        """The slot in use holds another's weights: the next who asks for its adapter gets it loaded into another."""
        with self._lock:
            if not slot.distrusted:
                slot.distrusted = True
                del self._slots[slot.digest]

    def scrub(self) -> str | None:
        """Checks one slot's weights against the sum taken when it was filled; empties and names a changed one."""
        with self._lock:
            loaded = [slot for slot in self._slots.values() if slot.pins == 0]
            if not loaded:
                return None
            self._scrubbed = (self._scrubbed + 1) % len(loaded)
            slot = loaded[self._scrubbed]
            if self._table.checksum(slot.number) == slot.checksum:
                return None
            self._evict(slot)
            return slot.digest

    def __len__(self) -> int:
        return len(self._slots)

    def _folder(self, digest: str, fetch: Fetch) -> AdapterFolder:
        with self._lock:
            if (kept := self._memory.get(digest)) is not None:
                self._memory.move_to_end(digest)
                return kept
        folder = fetch()
        if folder.digest != digest:
            raise FolderRefused(f"asked for {digest}, the bytes in storage have {folder.digest}")
        with self._lock:
            self._memory[digest] = folder
            while len(self._memory) > self._remembered:
                self._memory.popitem(last=False)
        return folder

    def _load(self, folder: AdapterFolder) -> Slot:
        if not self._free:
            idle = next((slot for slot in self._slots.values() if slot.pins == 0), None)
            if idle is None:
                raise NoSlotFree(f"all {self._table.slots} slots are in use")
            self._evict(idle)
        number = self._free.pop()
        try:
            generation = self._table.fill(number, folder)
        except FolderRefused:
            self._free.append(number)
            raise
        return Slot(number, folder.digest, generation, self._table.checksum(number))

    def _evict(self, slot: Slot) -> None:
        del self._slots[slot.digest]
        self._table.forget(slot.digest)
        self._free.append(slot.number)
