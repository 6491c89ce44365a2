"""Time that moves when a test says so: a `core.clock.Clock`."""

from __future__ import annotations


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
