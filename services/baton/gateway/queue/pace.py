"""How fast a queue is served while somebody waits in it (pure)."""

from __future__ import annotations

import math

# Waiting time over which the past loses its weight; long against the time between two placements,
# short against that in which workers come and go.
TIME_S = 10.0
# What must have been seen before anything is said.
LEAST_S = 0.5
LEAST_SERVED = 8.0


class Pace:
    """Cost served per second of time in which the queue was not empty, of late.

    It measures whatever holds the queue up: slots, prompts to compute, or memory. Time without
    waiting says nothing of what could have been served, so it does not count.
    """

    def __init__(self) -> None:
        # Decayed sums over the waiting time.
        self._cost = 0.0
        self._num_served = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    def waits(self, now: float) -> None:
        """From now on somebody waits. Idempotent."""
        if self._since is None:
            self._since = now

    def rests(self, now: float) -> None:
        """From now on nobody waits, or nobody could be served whatever came. Idempotent."""
        self._advance(now)
        self._since = None

    def served(self, now: float, cost: float) -> None:
        """Something was served. Counts only while somebody waits."""
        if self._since is not None:
            self._advance(now)
            self._cost += cost
            self._num_served += 1

    def rate(self, now: float) -> float | None:
        """Cost per second, above 0; None while too little is known."""
        self._advance(now)
        if self._seconds < LEAST_S or self._num_served < LEAST_SERVED or self._cost <= 0:
            return None
        return self._cost / self._seconds

    def _advance(self, now: float) -> None:
        if self._since is None or now <= self._since:
            return
        kept = math.exp((self._since - now) / TIME_S)
        self._cost *= kept
        self._num_served *= kept
        self._seconds = self._seconds * kept + TIME_S * (1 - kept)
        self._since = now
