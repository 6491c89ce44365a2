"""Least squares that follow a drift: y as a non-negative combination of a few features.

Sums of squares with exponential forgetting, the closed form of recursive least squares. Unlike its
covariance update they stay bounded while the features do not change, and a prior pulls to where it
is said to be whatever they have not told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Of the largest part of a prior; smaller ones count as so large.
_LEAST_PART = 0.1

Matrix = list[list[float]]


class LinearFit:
    """`y = theta . x`. An observation that is 1 / (1 - forgetting) old weighs 1/e; a prior is worth
    `prior_weight` observations like those that there were, and moves most where it is largest: what
    is twice as slow in all is taken to be so in its parts.

    Plain numbers: for the two or three features that there are, arrays would take ten times as
    long.
    """

    def __init__(self, num_features: int, forgetting: float, prior_weight: float) -> None:
        self._forgetting = forgetting
        self._prior_weight = prior_weight
        self._xx: Matrix = [[0.0] * num_features for _ in range(num_features)]
        self._xy = [0.0] * num_features
        # Sum of the observations' weights.
        self._weight = 0.0
        self.num_observations = 0

    def add(self, x: Sequence[float], y: float, worth: float = 1.0) -> None:
        """One observation, `worth` so many."""
        kept = self._forgetting**worth
        for i, value in enumerate(x):
            more = worth * value
            self._xx[i] = [kept * a + more * b for a, b in zip(self._xx[i], x, strict=True)]
            self._xy[i] = kept * self._xy[i] + more * y
        self._weight = self._weight * kept + worth
        self.num_observations += 1

    def solve(self, prior: Sequence[float]) -> tuple[float, ...]:
        """The coefficients, none negative; `prior` where nothing has been observed."""
        if not self.num_observations:
            return tuple(prior)
        # Loops over numbers: this runs for every few reports of every worker.
        features, xx = range(len(self._xy)), self._xx
        # Mean square of each feature; one that was always 0 is the prior's.
        squares = [xx[i][i] / self._weight or 1.0 for i in features]
        parts = [prior[i] * math.sqrt(squares[i]) for i in features]
        largest = max(parts)
        if not largest:
            largest, parts = 1.0, [1.0] * len(parts)
        least = _LEAST_PART * largest
        matrix: Matrix = []
        target: list[float] = []
        scale: list[float] = []
        for i in features:
            weight = self._prior_weight * squares[i] * (largest / max(parts[i], least)) ** 2
            row = xx[i].copy()
            row[i] += weight
            # Features of a size, so that the matrix is well conditioned.
            scale.append(1 / math.sqrt(row[i]))
            matrix.append(row)
            target.append((self._xy[i] + weight * prior[i]) * scale[i])
        for i, row in enumerate(matrix):
            for j in features:
                row[j] = row[j] * scale[i] * scale[j]
        free = list(features)
        theta = [0.0] * len(free)
        # Those that come out negative are left out, one less each time, so this ends.
        while free:
            found = _solved([[matrix[i][j] for j in free] for i in free], [target[i] for i in free])
            if min(found) >= 0:
                for i, value in zip(free, found, strict=True):
                    theta[i] = value
                break
            free = [i for i, value in zip(free, found, strict=True) if value > 0]
        return tuple(a * b for a, b in zip(theta, scale, strict=True))


def _solved(matrix: Matrix, target: list[float]) -> list[float]:
    """Gaussian elimination; a positive definite matrix needs no pivoting. Uses up its arguments."""
    num = len(target)
    for i in range(num):
        for j in range(i + 1, num):
            factor = matrix[j][i] / matrix[i][i]
            for k in range(i + 1, num):
                matrix[j][k] -= factor * matrix[i][k]
            target[j] -= factor * target[i]
    for i in reversed(range(num)):
        for k in range(i + 1, num):
            target[i] -= matrix[i][k] * target[k]
        target[i] /= matrix[i][i]
    return target
