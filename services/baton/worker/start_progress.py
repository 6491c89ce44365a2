"""How far a worker is on its way to its first lease."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """What a starting worker does, in this order."""

    DOWNLOADING = "downloading"
    LOADING = "loading"
    REGISTERING = "registering"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look. `seconds` have been spent in the stage so far."""

    stage: Stage
    num_bytes: int
    total_bytes: int | None
    seconds: float


class StartProgress:
    """Written by the thread that starts the worker, read by any other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[Stage, int, int | None, float] = (Stage.DOWNLOADING, 0, None, clock())
        # Seconds that the stages which are over took.
        self.took_s: dict[Stage, float] = {}

    @property
    def stage(self) -> Stage:
        return self._now[0]

    def begin(self, stage: Stage) -> None:
        """The stage before is over."""
        old, *_, since = self._now
        now = self._clock()
        self.took_s = {**self.took_s, old: now - since}
        self._now = (stage, 0, None, now)

    def advance(self, num_bytes: int, total_bytes: int | None) -> None:
        """The stage has done so much."""
        stage, *_, since = self._now
        self._now = (stage, num_bytes, total_bytes, since)

    def look(self) -> Progress:
        """Where it is now."""
        # One tuple, so that a look while a stage changes shows the one or the other.
        stage, num_bytes, total_bytes, since = self._now
        return Progress(stage, num_bytes, total_bytes, self._clock() - since)
