"""A change of level: by what factor all of the newest observations differ from what was fitted.

A fit over hundreds of observations tells what a time depends on, and is slow to see that a worker
has become slower in all. Here a few observations that agree are enough, and one that stands alone
changes nothing: as long as any of them is near the fit, or they lie on both sides, there is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import mul

# Factors nearer to 1 are the fit's to learn.
NOTICED = 1.25


class Level:
    """The newest `num_newest` observations (x, y) of `y = theta . x`."""

    def __init__(self, num_newest: int) -> None:
        self._newest: deque[tuple[Sequence[float], float]] = deque(maxlen=num_newest)

    def add(self, x: Sequence[float], y: float) -> None:
        """One observation, y above 0."""
        self._newest.append((x, y))

    def factor(self, theta: Sequence[float]) -> float:
        """The median of y / (theta . x) when all say that there is a change; else 1."""
        newest = self._newest
        if len(newest) < (newest.maxlen or 0):
            return 1.0
        ratios: list[float] = []
        # The newest one first: mostly it is near the fit, and that is that.
        for x, y in reversed(newest):
            ratio = y / max(sum(map(mul, theta, x)), 1e-12)
            if 1 / NOTICED < ratio < NOTICED or (ratios and (ratio > 1) != (ratios[0] > 1)):
                return 1.0
            ratios.append(ratio)
        return sorted(ratios)[len(ratios) // 2]
