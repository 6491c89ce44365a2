"""How long requests took lately: quantiles over a sliding window, in bounded memory (pure).

Times are counted in bins that are 5 % wide, so a quantile is off by 2.5 % at most; counts of
several processes add up. The window slides in steps of a thirtieth of it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from baton.core.clock import Clock, monotonic

NUM_STEPS = 30
_WIDTH = math.log(1.05)
# Seconds; what is beyond counts as these.
_LEAST_S, _MOST_S = 1e-5, 1e5


@dataclass(slots=True)
class Times:
    """Of some requests that ended. Bins by number, with how many requests are in each."""

    requests: int = 0
    # Those that failed for the service's fault.
    errors: int = 0
    ttft: Counter[int] = field(default_factory=Counter)
    tpot: Counter[int] = field(default_factory=Counter)

    def add(self, other: Times) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.ttft.update(other.ttft)
        self.tpot.update(other.tpot)

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "ttft": {str(number): count for number, count in self.ttft.items()},
            "tpot": {str(number): count for number, count in self.tpot.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Times:
        return cls(
            document["requests"],
            document["errors"],
            Counter({int(number): count for number, count in document["ttft"].items()}),
            Counter({int(number): count for number, count in document["tpot"].items()}),
        )


class RecentTimes:
    """See the module."""

    def __init__(self, window_s: float = 300.0, clock: Clock = monotonic) -> None:
        self.window_s = window_s
        self._step_s = window_s / NUM_STEPS
        self._clock = clock
        self._steps: deque[tuple[int, Times]] = deque()

    def ended(self, ttft_s: float | None, tpot_s: float | None, *, failed: bool) -> None:
        """A request is over; None for a time that it did not get to have."""
        times = self._now()
        times.requests += 1
        times.errors += failed
        if ttft_s is not None:
            times.ttft[_bin(ttft_s)] += 1
        if tpot_s is not None:
            times.tpot[_bin(tpot_s)] += 1

    def times(self) -> Times:
        """All of the window."""
        self._forget()
        found = Times()
        for _, times in self._steps:
            found.add(times)
        return found

    def _now(self) -> Times:
        number = self._forget()
        if not self._steps or self._steps[-1][0] != number:
            self._steps.append((number, Times()))
        return self._steps[-1][1]

    def _forget(self) -> int:
        """Drop what is too old; the number of the step that it is now."""
        number = int(self._clock() / self._step_s)
        while self._steps and self._steps[0][0] <= number - NUM_STEPS:
            self._steps.popleft()
        return number


def quantile(bins: Mapping[int, int], share: float) -> float | None:
    """The least time that `share` of them do not exceed, in seconds; None when there are none."""
    needed = share * sum(bins.values())
    seen = 0
    for number in sorted(bins):
        seen += bins[number]
        if seen >= needed:
            return math.exp((number + 0.5) * _WIDTH)
    return None


def _bin(seconds: float) -> int:
    return math.floor(math.log(min(max(seconds, _LEAST_S), _MOST_S)) / _WIDTH)
