"""The embedded store's contents (pure; time is an argument, never going back).

Entries expire by a heap of deadlines. Each watcher has a bounded queue: one that does not keep up
is marked lost and starts again, so that it costs no more memory than its queue.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.store.base import WatchEvent

# Old deadlines of renewed entries are dropped when they are this many times the living ones.
HEAP_SLACK = 4


@dataclass(slots=True)
class _Entry:
    value: bytes
    expires: float | None
    # Tells the entry's newest deadline in the heap from those of earlier renewals.
    version: int


class Watcher:
    """One watch: `events` waiting to be sent; `wake` is called when there is something to do."""

    def __init__(self, prefix: str, max_events: int, wake: Callable[[], None]) -> None:
        self.prefix = prefix
        self.events: deque[WatchEvent] = deque()
        # It fell behind: its events are gone and it must watch again.
        self.lost = False
        self._max_events = max_events
        self._wake = wake

    def offer(self, event: WatchEvent) -> None:
        if self.lost or not event.key.startswith(self.prefix):
            return
        if len(self.events) >= self._max_events:
            self.lost = True
            self.events.clear()
        else:
            self.events.append(event)
        self._wake()


class StoreState:
    """Entries, deadlines and watchers. Expired entries are gone at the instant they expire."""

    def __init__(self, max_watch_events: int = 10_000) -> None:
        self._entries: dict[str, _Entry] = {}
        self._deadlines: list[tuple[float, int, str]] = []
        self._versions = 0
        self._watchers: set[Watcher] = set()
        self._max_watch_events = max_watch_events

    def put(self, now: float, key: str, value: bytes, ttl_s: float | None) -> None:
        self.expire(now)
        old = self._entries.get(key)
        self._set(key, value, None if ttl_s is None else now + ttl_s)
        if old is None or old.value != value:
            self._tell(WatchEvent("put", key, value))

    def claim(
        self, now: float, key: str, value: bytes, ttl_s: float | None, replaces: bytes | None
    ) -> bytes | None:
        """Put and return None; or what is there, when that is neither `value` nor `replaces`."""
        holder = self.get(now, key)
        if holder is not None and holder not in (value, replaces):
            return holder
        self.put(now, key, value, ttl_s)
        return None

    def get(self, now: float, key: str) -> bytes | None:
        self.expire(now)
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def delete(self, now: float, key: str) -> bool:
        self.expire(now)
        if self._entries.pop(key, None) is None:
            return False
        self._tell(WatchEvent("deleted", key))
        return True

    def list(self, now: float, prefix: str) -> dict[str, bytes]:
        self.expire(now)
        return {k: self._entries[k].value for k in sorted(self._entries) if k.startswith(prefix)}

    def lasting(self) -> dict[str, bytes]:
        """All entries without a TTL."""
        return {k: entry.value for k, entry in self._entries.items() if entry.expires is None}

    def expire(self, now: float) -> None:
        """Remove what has run out; watchers are told."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, version, key = heapq.heappop(self._deadlines)
            entry = self._entries.get(key)
            if entry is not None and entry.version == version:
                del self._entries[key]
                self._tell(WatchEvent("expired", key))

    def next_expiry(self) -> float | None:
        """When to call `expire` next at the latest; None while nothing has a TTL."""
        while self._deadlines:
            when, version, key = self._deadlines[0]
            entry = self._entries.get(key)
            if entry is not None and entry.version == version:
                return when
            heapq.heappop(self._deadlines)
        return None

    def watch(self, now: float, prefix: str, wake: Callable[[], None]) -> Watcher:
        """A new watcher; its queue begins with the entries as puts and `synced`."""
        entries = self.list(now, prefix)
        # The start always fits; the bound is on what comes while it is being sent.
        watcher = Watcher(prefix, self._max_watch_events + len(entries) + 1, wake)
        watcher.events.extend(WatchEvent("put", key, value) for key, value in entries.items())
        watcher.events.append(WatchEvent("synced"))
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def num_watchers(self) -> int:
        return len(self._watchers)

    def _set(self, key: str, value: bytes, expires: float | None) -> None:
        self._versions += 1
        self._entries[key] = _Entry(value, expires, self._versions)
        if expires is not None:
            heapq.heappush(self._deadlines, (expires, self._versions, key))
            if len(self._deadlines) > 64 + HEAP_SLACK * len(self._entries):
                self._deadlines = [
                    (entry.expires, entry.version, name)
                    for name, entry in self._entries.items()
                    if entry.expires is not None
                ]
                heapq.heapify(self._deadlines)

    def _tell(self, event: WatchEvent) -> None:
        for watcher in self._watchers:
            watcher.offer(event)
