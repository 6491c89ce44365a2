"""Virtual time: a heap of things to do, in the order of their instants."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum
from itertools import count


class Phase(IntEnum):
    """What goes first at one instant: what ends, then what arrives, then what begins.

    So a batch that begins takes in everything that came with it.
    """

    END = 0
    ARRIVE = 1
    BEGIN = 2


class EventLoop:
    """Runs callbacks in order of (instant, phase, when they were asked for). A `core.clock.Clock`.

    Instants are seconds from 0. A callback cannot be taken back: who may change his mind keeps a
    note of it and does nothing when called.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []
        self._numbers = count()

    def __call__(self) -> float:
        return self.now

    def at(self, when: float, phase: Phase, callback: Callable[[], None]) -> None:
        """Call back at `when`, not before now. Raises ValueError for an instant that has passed."""
        if when < self.now:
            raise ValueError(f"{when} s has passed, it is {self.now} s")
        heapq.heappush(self._events, (when, phase, next(self._numbers), callback))

    def run(self) -> None:
        """Until nothing is left to do."""
        events = self._events
        while events:
            self.now, _, _, callback = heapq.heappop(events)
            callback()
