"""Every handoff that a worker remembers, by what it is asked for."""

from __future__ import annotations

from collections import deque

from baton.core.handoff import Key
from baton.transfer.entry import Entry
from baton.transfer.peers import PeerId

# A handoff that has ended answers duplicates and late questions for this long.
REMEMBER_S = 60.0


class Entries:
    """Those that have not ended, and for REMEMBER_S those that have."""

    def __init__(self) -> None:
        self.open: dict[bytes, Entry] = {}
        """Not ended, by handoff id."""
        self._all: dict[bytes, Entry] = {}
        self._by_key: dict[Key, Entry] = {}
        self._by_peer: dict[PeerId, dict[bytes, Entry]] = {}
        # Until when those that have ended are remembered, at least.
        self._ended: deque[tuple[float, Entry]] = deque()

    def add(self, entry: Entry) -> None:
        handoff_id = entry.handoff_id
        self.open[handoff_id] = self._all[handoff_id] = self._by_key[entry.key] = entry
        self._by_peer.setdefault(entry.peer_id, {})[handoff_id] = entry

    def find(self, handoff_id: bytes) -> Entry | None:
        return self._all.get(handoff_id)

    def find_open(self, key: Key) -> Entry | None:
        """The one that has not ended of a submission."""
        return self._by_key.get(key)

    def all(self) -> list[Entry]:
        return list(self._all.values())

    def of_peer(self, peer_id: PeerId) -> list[Entry]:
        """Those with one life of a worker."""
        return list(self._by_peer.get(peer_id, {}).values())

    def end(self, entry: Entry, now: float) -> bool:
        """It has ended; False when that is known."""
        if self.open.pop(entry.handoff_id, None) is None:
            return False
        del self._by_key[entry.key]
        entry.request = None
        self._ended.append((now + REMEMBER_S, entry))
        return True

    def forget(self, now: float) -> list[Entry]:
        """Forget those whose time is over; returns those kept on, which are unsettled."""
        kept: list[Entry] = []
        while self._ended and self._ended[0][0] <= now:
            _, entry = self._ended.popleft()
            if entry.is_unsettled:
                self._ended.append((now + REMEMBER_S, entry))
                kept.append(entry)
            else:
                self._drop(entry)
        return kept

    def _drop(self, entry: Entry) -> None:
        del self._all[entry.handoff_id]
        of_peer = self._by_peer[entry.peer_id]
        del of_peer[entry.handoff_id]
        if not of_peer:
            del self._by_peer[entry.peer_id]
