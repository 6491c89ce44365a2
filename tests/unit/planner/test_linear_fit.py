"""The small least squares that rates are fitted with, against numpy's."""

from __future__ import annotations

import random

import numpy as np
import pytest

from baton.planner.linear_fit import LinearFit


def fitted(rows: list[list[float]], values: list[float], prior_weight: float = 1e-9) -> LinearFit:
    fit = LinearFit(len(rows[0]), 1.0, prior_weight)
    for x, y in zip(rows, values, strict=True):
        fit.add(x, y)
    return fit


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_numpy_where_nothing_is_negative(seed: int) -> None:
    rng = random.Random(seed)
    num = rng.choice([2, 3])
    theta = [rng.uniform(0.5, 2) for _ in range(num)]
    rows = [[1.0, *(rng.uniform(0, 10) for _ in theta[1:])] for _ in range(40)]
    values = [sum(a * b for a, b in zip(theta, x, strict=True)) for x in rows]
    found = fitted(rows, values).solve([1.0] * num)
    expected, *_ = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_no_coefficient_is_negative() -> None:
    # A falling line through points: the slope stays 0, the rest explains what it can.
    rows = [[1.0, float(x)] for x in range(10)]
    base, slope = fitted(rows, [20.0 - x for x in range(10)]).solve([1.0, 1.0])
    assert slope == 0
    assert base == pytest.approx(15.5, rel=1e-3)


def test_what_was_never_told_apart_stays_in_the_priors_proportion() -> None:
    fit = fitted([[1.0, 10.0]] * 50, [6.0] * 50, prior_weight=1e-3)
    base, slope = fit.solve([1.0, 0.1])
    assert base + 10 * slope == pytest.approx(6.0, rel=1e-3)
    assert base == pytest.approx(10 * slope, rel=1e-2)


def test_a_feature_that_was_always_zero_keeps_the_prior() -> None:
    assert fitted([[1.0, 0.0]] * 9, [2.0] * 9).solve([1.0, 0.25])[1] == pytest.approx(0.25)


def test_without_observations_it_is_the_prior() -> None:
    assert LinearFit(2, 0.99, 16.0).solve([0.0, 3.0]) == (0.0, 3.0)


def test_a_prior_of_zeros_is_no_reason_to_fail() -> None:
    assert fitted([[1.0, 2.0], [1.0, 3.0]], [3.0, 4.0]).solve([0.0, 0.0]) == pytest.approx(
        (1.0, 1.0), rel=1e-3
    )
