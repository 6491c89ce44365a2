"""Which service gets its next round when: a level-triggered queue, as pure state.

A key is held once, however often it is added. While a round of it is in progress it is not given
out again; what is added meanwhile comes after. A round that failed is tried again after a wait
that doubles; one that went well ends the waiting. Times are seconds of any one clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    """What is known of one key."""

    due: float | None = None
    """When its next round may begin; None when none is wanted."""
    running: bool = False
    began: float = float("-inf")
    waited_s: float = 0.0
    """How long its last round was overdue when it began."""
    failures: int = 0
    not_before: float = float("-inf")
    """While it fails: no event but an urgent one makes the next try earlier."""
    gone: bool = False
    """Forgotten while a round was in progress."""


class WorkQueue(Generic[K]):
    """`add` when something changed, `take` to begin a round, `done` or `failed` to end it."""

    def __init__(self, min_interval_s: float, backoff_s: float, max_backoff_s: float) -> None:
        self._min_interval_s = min_interval_s
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s
        self._entries: dict[K, _Entry] = {}
        # Those due, soonest first; one whose time differs from its entry's is out of date.
        self._heap: list[tuple[float, int, K]] = []
        self._pushed = 0

    def __len__(self) -> int:
        """Keys that wait for a round, those that are due later included."""
        return sum(entry.due is not None for entry in self._entries.values())

    def depth(self, now: float) -> int:
        """Keys that a round is overdue for."""
        return sum(
            entry.due is not None and entry.due <= now and not entry.running
            for entry in self._entries.values()
        )

    def add(self, key: K, now: float, delay_s: float = 0.0, *, urgent: bool = False) -> None:
        """Wanted `delay_s` from now, or earlier if it was already.

        An urgent one (the user changed the object) does not wait for the backoff to pass.
        """
        entry = self._entries.setdefault(key, _Entry())
        entry.gone = False
        if urgent:
            entry.not_before = float("-inf")
        when = max(now + delay_s, entry.began + self._min_interval_s, entry.not_before)
        if entry.due is None or when < entry.due:
            self._schedule(key, entry, when)

    def take(self, now: float) -> K | None:
        """A key whose round begins now; None when none is due."""
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            if entry is None or entry.running or entry.due != when:
                continue
            entry.due, entry.running, entry.began, entry.waited_s = None, True, now, now - when
            return key
        return None

    def waited_s(self, key: K) -> float:
        """How long the round of a key that `take` gave was overdue when it began.

        What is added during a round is due at once, as far as `min_interval_s` allows, and so
        waits for that round's end, too.
        """
        return self._entries[key].waited_s

    def next_due(self) -> float | None:
        """When `take` may have something; None when nothing waits."""
        while self._heap:
            when, _, key = self._heap[0]
            entry = self._entries.get(key)
            if entry is not None and not entry.running and entry.due == when:
                return when
            heapq.heappop(self._heap)
        return None

    def done(self, key: K, now: float, again_s: float | None = None) -> None:
        """The round went well; the next at the latest in `again_s`."""
        entry = self._finish(key)
        if entry is None:
            return
        entry.failures, entry.not_before = 0, float("-inf")
        if again_s is not None:
            self.add(key, now, again_s)

    def failed(self, key: K, now: float, wait_s: float = 0.0) -> float:
        """The round failed: next try after the backoff, or after `wait_s` if that is longer.

        Returns the wait.
        """
        entry = self._finish(key)
        if entry is None:
            return 0.0
        entry.failures += 1
        wait = max(self.backoff(entry.failures), wait_s)
        entry.not_before = now + wait
        self._schedule(key, entry, entry.not_before)
        return wait

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(self._max_backoff_s, self._backoff_s * 2.0 ** min(failures - 1, 30))

    def forget(self, key: K) -> None:
        """It is gone: no further round of it is wanted, unless it is added again."""
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.running:
            entry.due, entry.gone = None, True
        else:
            del self._entries[key]

    def _finish(self, key: K) -> _Entry | None:
        entry = self._entries[key]
        entry.running = False
        if entry.gone:
            del self._entries[key]
            return None
        if entry.due is not None:
            # Added meanwhile, and passed over by `take` while it ran.
            self._schedule(key, entry, entry.due)
        return entry

    def _schedule(self, key: K, entry: _Entry, when: float) -> None:
        entry.due = when
        self._pushed += 1
        heapq.heappush(self._heap, (when, self._pushed, key))
