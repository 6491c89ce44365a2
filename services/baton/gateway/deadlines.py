"""Many deadlines on one timer: a wheel of short intervals instead of a task per request."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from baton.core.clock import Clock

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls `expired(item)` at most `granularity_s` after an item's deadline, never before it.

    Adding and removing cost the same however many there are. Used on one event loop.
    """

    def __init__(
        self, expired: Callable[[T], None], clock: Clock, granularity_s: float = 0.02
    ) -> None:
        self._expired = expired
        self._clock = clock
        self._granularity_s = granularity_s
        # Interval to its items (ordered, so expiry is too); the intervals also as a heap.
        self._intervals: dict[int, dict[T, None]] = {}
        self._heap: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_interval = 0

    def __len__(self) -> int:
        return sum(len(items) for items in self._intervals.values())

    def add(self, item: T, deadline: float) -> int:
        """Watch a deadline (an instant of the clock); returns what `remove` wants."""
        interval = math.ceil(deadline / self._granularity_s)
        items = self._intervals.get(interval)
        if items is not None:
            items[item] = None
            return interval
        self._intervals[interval] = {item: None}
        heapq.heappush(self._heap, interval)
        if self._timer is None or interval < self._timer_interval:
            self._arm()
        return interval

    def remove(self, item: T, interval: int) -> None:
        """Stop watching; unknown items are ignored."""
        items = self._intervals.get(interval)
        if items is not None:
            items.pop(item, None)

    def expire(self) -> None:
        """Call back for all whose deadline has passed. The timer does this by itself."""
        now = self._clock()
        while self._heap and self._heap[0] * self._granularity_s <= now:
            # The interval leaves first: a callback may add to a new one of the same number.
            for item in self._intervals.pop(heapq.heappop(self._heap)):
                self._expired(item)
        self._arm()

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._intervals.clear()
        self._heap.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Intervals that emptied before their time need no timer.
        while self._heap and not self._intervals[self._heap[0]]:
            del self._intervals[heapq.heappop(self._heap)]
        if self._heap:
            self._timer_interval = self._heap[0]
            wait = self._timer_interval * self._granularity_s - self._clock()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self.expire)
