"""Time as an argument: pure code takes a Clock, so that tests and the simulator own it."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds from an arbitrary start, never going back.
Clock = Callable[[], float]

monotonic: Clock = time.monotonic


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
