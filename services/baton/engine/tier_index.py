"""What one lower tier holds of one group: hash -> slot, oldest use first out. Pure.

An entry is filled before it can be found, and while somebody reads it, it is not evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from baton.engine.net_changes import NetChanges


@dataclass(slots=True)
class Entry:
    """One block's copy. `doomed`: to be removed when its last reader leaves."""

    slot: int
    readers: int = 0
    ready: bool = False
    doomed: bool = False


class TierIndex:
    """At most `capacity` entries of `record_bytes` bytes; slots are numbers below `capacity`.

    `on_evict(hash)` hears of entries that made room.
    """

    def __init__(
        self,
        capacity: int,
        record_bytes: int,
        on_evict: Callable[[bytes], None] | None = None,
    ) -> None:
        self.capacity = capacity
        self.record_bytes = record_bytes
        self.changes = NetChanges()
        self.num_stored = 0
        self.num_hits = 0
        self.num_dropped = 0
        self.num_failed = 0
        self._on_evict = on_evict
        self._entries: dict[bytes, Entry] = {}
        # Ready and without readers, least recently used first.
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        # Ready, and not copied to the tier below yet.
        self._unsaved: OrderedDict[bytes, None] = OrderedDict()
        self._free: list[int] = []
        self._num_slots = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block_hash: bytes) -> bool:
        """Whether it is here or on its way here."""
        return block_hash in self._entries

    @property
    def used_bytes(self) -> int:
        return len(self._entries) * self.record_bytes

    def ready(self, block_hash: bytes) -> bool:
        """Whether it can be opened."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.ready and not entry.doomed

    # --- filling ---

    def begin(self, block_hash: bytes, *, keep_unsaved: bool = False) -> int | None:
        """A slot to fill for a hash that is not here; None while no other entry can go.

        With `keep_unsaved` those that are still to be copied to the tier below cannot.
        """
        assert block_hash not in self._entries, "a hash has one copy on a tier"
        if len(self._entries) >= self.capacity and not self._evict(keep_unsaved=keep_unsaved):
            return None
        slot = self._free.pop() if self._free else self._num_slots
        self._num_slots = max(self._num_slots, slot + 1)
        self._entries[block_hash] = Entry(slot)
        return slot

    def finish(self, block_hash: bytes, *, unsaved: bool = False) -> None:
        """The slot is filled; with `unsaved` the tier below wants a copy."""
        self._entries[block_hash].ready = True
        self._idle[block_hash] = None
        if unsaved:
            self._unsaved[block_hash] = None
        self.changes.store(block_hash)

    def cancel(self, block_hash: bytes) -> None:
        """Filling the slot has failed."""
        self._free.append(self._entries.pop(block_hash).slot)

    def discover(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Enter copies of an earlier life, newest first, as older than all that is here.

        Returns those that there is no room for.
        """
        surplus = []
        for block_hash in hashes:
            if block_hash in self._entries:
                continue
            if len(self._entries) >= self.capacity:
                surplus.append(block_hash)
                continue
            self.begin(block_hash)
            self.finish(block_hash)
            self._idle.move_to_end(block_hash, last=False)
        return surplus

    # --- reading ---

    def open(self, block_hash: bytes) -> int:
        """The slot of a ready entry, which stays until `close`."""
        entry = self._entries[block_hash]
        assert entry.ready and not entry.doomed, "this copy may not be read"
        if entry.readers == 0:
            del self._idle[block_hash]
        entry.readers += 1
        return entry.slot

    def close(self, block_hash: bytes) -> None:
        """A reader leaves; the entry counts as just used."""
        entry = self._entries[block_hash]
        entry.readers -= 1
        assert entry.readers >= 0
        if entry.readers == 0:
            self._idle[block_hash] = None
            if entry.doomed:
                self._remove(block_hash)

    def forget(self, block_hash: bytes) -> None:
        """The copy is bad: nobody opens it again."""
        entry = self._entries.get(block_hash)
        if entry is None:
            return
        entry.doomed = True
        if entry.readers == 0:
            self._remove(block_hash)

    # --- copying to the tier below ---

    def next_unsaved(self) -> bytes | None:
        """The oldest entry that the tier below wants."""
        return next(iter(self._unsaved), None)

    def saved(self, block_hash: bytes) -> None:
        """The tier below has it, is about to, or cannot take it."""
        self._unsaved.pop(block_hash, None)

    # --- making room ---

    def shrink(self, num_entries: int) -> None:
        """Give up part of the capacity."""
        self.capacity = max(0, self.capacity - num_entries)
        while len(self._entries) > self.capacity and self._evict():
            pass

    def check(self, readers: dict[bytes, int], filling: set[bytes]) -> None:
        """Assert that entries, slots and readers agree; both arguments are what others know."""
        entries = self._entries
        slots = [entry.slot for entry in entries.values()]
        assert len(entries) <= self.capacity, "a tier is over its budget"
        assert len({*slots, *self._free}) == len(slots) + len(self._free) == self._num_slots
        assert {h for h, entry in entries.items() if not entry.ready} == filling
        assert {h: e.readers for h, e in entries.items() if e.readers} == readers
        idle = {h for h, entry in entries.items() if entry.ready and not entry.readers}
        assert idle == set(self._idle), "an entry is idle and in use"
        assert set(self._unsaved) <= set(entries), "a copy is due of an entry that is gone"

    def _evict(self, *, keep_unsaved: bool = False) -> bool:
        candidates = (h for h in self._idle if not (keep_unsaved and h in self._unsaved))
        victim = next(candidates, None)
        if victim is None:
            return False
        if victim in self._unsaved:
            self.num_dropped += 1
        self._remove(victim)
        if self._on_evict is not None:
            self._on_evict(victim)
        return True

    def _remove(self, block_hash: bytes) -> None:
        self._free.append(self._entries.pop(block_hash).slot)
        del self._idle[block_hash]
        self._unsaved.pop(block_hash, None)
        self.changes.remove(block_hash)
