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
    """The newest observations (x, y) of `y = theta . x`, as many as are worth `num_newest`."""

    def __init__(self, num_newest: int) -> None:
        self._num_newest = num_newest
        self._newest: deque[tuple[Sequence[float], float, float]] = deque(maxlen=num_newest)

    def add(self, x: Sequence[float], y: float, worth: float = 1.0) -> None:
        """One observation, y above 0; `worth` so many, at least 1, if all had been told."""
        # However many it stands for, another one has to agree.
        self._newest.append((x, y, min(worth, self._num_newest / 2)))

    def factor(self, theta: Sequence[float]) -> float:
        """The median of y / (theta . x) when all say that there is a change; else 1."""
        ratios: list[float] = []
        missing: float = self._num_newest
        # The newest one first: mostly it is near the fit, and that is that.
        for x, y, worth in reversed(self._newest):
            ratio = y / max(sum(map(mul, theta, x)), 1e-12)
            if 1 / NOTICED < ratio < NOTICED or (ratios and (ratio > 1) != (ratios[0] > 1)):
                return 1.0
            ratios.append(ratio)
            missing -= worth
            if missing <= 0:
                return sorted(ratios)[len(ratios) // 2]
        return 1.0
