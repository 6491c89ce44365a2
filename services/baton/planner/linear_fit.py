"""Least squares that follow a drift: y as a non-negative combination of a few features.

Sums of squares with exponential forgetting, the closed form of recursive least squares. Unlike its
covariance update they stay bounded while the features do not change, and a prior pulls to where it
is said to be whatever they have not told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the largest part of a prior; smaller ones count as so large.
_LEAST_PART = 0.1


class LinearFit:
    """`y = theta . x`. An observation that is 1 / (1 - forgetting) old weighs 1/e; a prior is worth
    `prior_weight` observations like those that there were, and moves most where it is largest: what
    is twice as slow in all is taken to be so in its parts.
    """

    def __init__(self, num_features: int, forgetting: float, prior_weight: float) -> None:
        self._forgetting = forgetting
        self._prior_weight = prior_weight
        self._xx = np.zeros((num_features, num_features))
        self._xy = np.zeros(num_features)
        # Sum of the observations' weights.
        self._weight = 0.0
        self.num_observations = 0

    def add(self, x: Sequence[float], y: float) -> None:
        """One observation."""
        features = np.asarray(x, float)
        self._xx *= self._forgetting
        self._xx += np.outer(features, features)
        self._xy *= self._forgetting
        self._xy += features * y
        self._weight = self._weight * self._forgetting + 1
        self.num_observations += 1

    def solve(self, prior: Sequence[float]) -> tuple[float, ...]:
        """The coefficients, none negative; `prior` where nothing has been observed."""
        if not self.num_observations:
            return tuple(prior)
        prior_theta = np.asarray(prior, float)
        squares = np.diag(self._xx) / self._weight
        # A feature that was always 0 is the prior's.
        squares = np.where(squares > 0, squares, 1.0)
        part = prior_theta * np.sqrt(squares)
        part = np.maximum(part, _LEAST_PART * part.max()) if part.any() else np.ones_like(part)
        weight = self._prior_weight * squares * (part.max() / part) ** 2
        # Features of a size, so that the matrix is well conditioned.
        scale = 1 / np.sqrt(np.diag(self._xx) + weight)
        matrix = (self._xx + np.diag(weight)) * np.outer(scale, scale)
        target = (self._xy + weight * prior_theta) * scale
        free = np.ones(len(target), bool)
        theta = np.zeros(len(target))
        # Those that come out negative are left out, one less each time, so this ends.
        while free.any():
            theta[:] = 0.0
            theta[free] = np.linalg.solve(matrix[np.ix_(free, free)], target[free])
            if (theta >= 0).all():
                break
            free &= theta > 0
            theta[~free] = 0.0
        return tuple((theta * scale).tolist())
