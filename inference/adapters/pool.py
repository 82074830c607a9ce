"""Which adapter is in which slot: least recently used out, never one in use; host memory behind the slots."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from inference.adapters.folder import AdapterFolder, FolderRefused
from inference.adapters.slots import Packed, SlotTable

Fetch = Callable[[], AdapterFolder]


class NoSlotFree(Exception):
    """Every slot is answering somebody; worth a retry in a moment."""


@dataclass
class Slot:
    """A slot in use by so many requests."""

    number: int
    packed: Packed
    generation: int
    pins: int = 0
    retired: bool = False
    """Nobody new is sent there, and it is free once nobody uses it."""
    distrusted: bool = False
    """Its row held something else."""

    @property
    def digest(self) -> str:
        """Of the adapter that it was filled with."""
        return self.packed.digest


class Pool:
    """Slots on the device and packed adapters in host memory.

    Its books belong to one thread, the event loop's; only ``read`` and ``fill`` take time, and may run in others.
    """

    def __init__(self, table: SlotTable, hidden: int, *, memory_mb: int = 2048) -> None:
        self._table = table
        self._hidden = hidden
        self._free = list(reversed(range(table.slots)))
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._memory: OrderedDict[str, Packed] = OrderedDict()
        self._room = memory_mb << 20
        self._held = 0
        self._scrubbed = 0
        self.leaving = 0
        """Retired slots that are still in use."""
        self.on_idle: Callable[[], None] = lambda: None
        """Called when a slot has become free, or one that could be emptied."""

    def pin(self, digest: str, fetch: Fetch) -> Slot:
        """Takes the adapter's slot into use, loaded if need be; raises FolderRefused, NoSlotFree."""
        if slot := self.take(digest):
            return slot
        packed = self.recall(digest) or self.read(digest, fetch)
        number = self.reserve()
        return self.seat(number, packed, self._table.fill(number, packed), pins=1)

    def take(self, digest: str) -> Slot | None:
        """Takes the adapter's slot into use, if it has one."""
        if (slot := self._slots.get(digest)) is not None:
            self._slots.move_to_end(digest)
            slot.pins += 1
        return slot

    def unpin(self, slot: Slot) -> None:
        """One user less."""
        slot.pins -= 1
        if slot.pins == 0:
            if slot.retired:
                self._empty(slot)
            self.on_idle()

    def recall(self, digest: str) -> Packed | None:
        """The adapter from host memory."""
        if (packed := self._memory.get(digest)) is not None:
            self._memory.move_to_end(digest)
        return packed

    def read(self, digest: str, fetch: Fetch) -> Packed:
        """The adapter from storage; raises FolderRefused if that holds another, or one that is not for this base."""
        folder = fetch()
        if folder.digest != digest:
            raise FolderRefused(f"asked for {digest}, the bytes in storage have {folder.digest}")
        return self._table.pack(folder, self._hidden)

    def reserve(self) -> int:
        """A slot to fill, out of the books until it is seated or released; raises NoSlotFree."""
        if not self._free:
            idle = next((slot for slot in self._slots.values() if slot.pins == 0), None)
            if idle is None:
                raise NoSlotFree(f"all {self._table.slots} slots are in use")
            self._evict(idle)
        return self._free.pop()

    def fill(self, number: int, packed: Packed) -> int:
        """Copies an adapter into a reserved slot; its new generation."""
        return self._table.fill(number, packed)

    def seat(self, number: int, packed: Packed, generation: int, *, pins: int) -> Slot:
        """Opens a filled slot to whoever asks for its adapter, with so many users already."""
        self.remember(packed)
        slot = self._slots[packed.digest] = Slot(number, packed, generation, pins)
        if not pins:
            self.on_idle()
        return slot

    def release(self, number: int) -> None:
        """A reserved slot that was not filled."""
        self._free.append(number)
        self.on_idle()

    def distrust(self, slot: Slot) -> bool:
        """The slot in use holds another's weights; its adapter is loaded into another. False if that was known."""
        if slot.distrusted:
            return False
        slot.distrusted = True
        if not slot.retired:
            self._retire(slot)
        return True

    def retire(self) -> bool:
        """The slot in use that was asked for longest ago takes nobody new, for others wait for one, too.

        False if there is none.
        """
        slot = next((slot for slot in self._slots.values() if slot.pins), None)
        if slot is not None:
            self._retire(slot)
        return slot is not None

    def _retire(self, slot: Slot) -> None:
        if self._slots.get(slot.digest) is slot:
            del self._slots[slot.digest]
        slot.retired = True
        self.leaving += 1

    def scrub(self) -> str | None:
        """Checks one slot's weights against the sum of what it was filled with; empties and names a changed one."""
        loaded = [slot for slot in self._slots.values() if slot.pins == 0]
        if not loaded:
            return None
        self._scrubbed = (self._scrubbed + 1) % len(loaded)
        slot = loaded[self._scrubbed]
        if self._table.checksum(slot.number) == slot.packed.checksum:
            return None
        self._evict(slot)
        return slot.digest

    @property
    def idle(self) -> int:
        """Slots that could be filled now."""
        return len(self._free) + sum(slot.pins == 0 for slot in self._slots.values())

    def __len__(self) -> int:
        return len(self._slots)

    def remember(self, packed: Packed) -> None:
        """Keeps it in host memory; the least recently used leave where that is full."""
        if packed.digest not in self._memory:
            self._memory[packed.digest] = packed
            self._held += packed.nbytes
        while self._held > self._room and self._memory:
            self._held -= self._memory.popitem(last=False)[1].nbytes

    def _evict(self, slot: Slot) -> None:
        del self._slots[slot.digest]
        self._empty(slot)

    def _empty(self, slot: Slot) -> None:
        self.leaving -= slot.retired
        self._table.forget(slot.number)
        self._free.append(slot.number)
