"""Workers that become slower or faster are followed within a few steps, single reports ignored."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.planner.level import NOTICED, Level
from baton.planner.rates import PoolKey, RateFits, Rates, StepReport

POOL = PoolKey(1, 2)
OTHERS = PoolKey(1, 3)


def decode_report(step_s: float, num_running: int = 8) -> StepReport:
    return StepReport(0.0, 0.0, step_s, num_running, 10 * num_running)


def prefill_report(step_s: float, num_tokens: float = 1000) -> StepReport:
    return StepReport(num_tokens / step_s, step_s, 0.0, 0, 0)


def step_s(rates: Rates, num_running: int = 8) -> float:
    of_blocks = rates.step_s_per_block * 10 * num_running
    return rates.step_base_s + rates.step_s_per_sequence * num_running + of_blocks


def prefill_s(rates: Rates, num_tokens: float = 1000) -> float:
    return rates.prefill_base_s + rates.prefill_s_per_token * num_tokens


class Told:
    """What is known of workers when rates are asked for whenever, and only when, they changed."""

    def __init__(self) -> None:
        self.fits = RateFits()
        self.of: dict[int, Rates] = {}

    def report(self, worker: int, *reports: StepReport, pool: PoolKey = POOL) -> Rates:
        for report in reports:
            if self.fits.observe(worker, pool, report).value > 1:
                self.of[worker] = self.fits.rates(worker, self.fits.prior(pool))
        return self.of[worker]


@pytest.mark.parametrize("num_before", [40, 1000])
def test_slower_steps_show_within_a_few_reports_and_so_does_their_end(num_before: int) -> None:
    told = Told()
    told.report(1, *[decode_report(0.010)] * num_before)
    assert step_s(told.report(1, *[decode_report(0.2)] * 6)) == pytest.approx(0.2, rel=0.1)
    told.report(1, *[decode_report(0.2)] * num_before)
    assert step_s(told.of[1]) == pytest.approx(0.2, rel=0.1)
    after = step_s(told.report(1, *[decode_report(0.010)] * 6))
    assert after == pytest.approx(0.01, rel=NOTICED - 1)


def test_slower_prompts_show_within_a_few_reports() -> None:
    told = Told()
    told.report(1, *[prefill_report(0.05)] * 400)
    assert prefill_s(told.report(1, *[prefill_report(0.4)] * 6)) == pytest.approx(0.4, rel=0.1)
    assert prefill_s(told.report(1, *[prefill_report(0.05)] * 6)) == pytest.approx(0.05, rel=0.1)


def steps_until_noticed(steps_per_report: int, factor: float) -> int:
    """Of a worker that reports its moving average (as `worker.load`) once in so many steps."""
    told, average_s = Told(), 0.010
    for num_steps in range(-400, 400):
        if num_steps > 0:
            average_s += 0.1 * (factor * 0.010 - average_s)
        if num_steps % steps_per_report == 0:
            rates = told.report(1, decode_report(average_s)._replace(num_steps=1000 + num_steps))
            if step_s(rates) > 0.010 * NOTICED:
                return num_steps
    raise AssertionError("it was never noticed")


@pytest.mark.parametrize("factor", [2.0, 3.0, 10.0])
@pytest.mark.parametrize("steps_per_report", [2, 4, 8, 20])
def test_slower_worker_shows_after_as_many_steps_however_few_are_reported(
    steps_per_report: int, factor: float
) -> None:
    """Up to the next report, but for one that nobody bears out."""
    of_every_step = steps_until_noticed(1, factor)
    assert of_every_step < 10
    noticed = steps_until_noticed(steps_per_report, factor)
    assert noticed < max(of_every_step, steps_per_report + 1) + steps_per_report


@pytest.mark.parametrize("num_steps", [1, 3, 10**9])
def test_single_report_of_many_steps_changes_little(num_steps: int) -> None:
    told = Told()
    told.report(1, *[decode_report(0.010)] * 80)
    for count, seconds in enumerate((0.2, 0.010, 0.010)):
        report = decode_report(seconds)._replace(num_steps=80 + count * num_steps)
        assert step_s(told.report(1, report)) == pytest.approx(0.01, rel=0.25)


@given(st.floats(1.4, 100), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_any_change_is_followed_through_noise(factor: float, slower: bool, seed: int) -> None:
    rng, told = random.Random(seed), Told()
    base_s = 0.01

    def reports(level_s: float, count: int) -> list[StepReport]:
        return [decode_report(level_s * rng.uniform(0.95, 1.05)) for _ in range(count)]

    told.report(1, *reports(base_s, 200))
    assert step_s(told.of[1]) == pytest.approx(base_s, rel=0.1)
    then_s = base_s * factor if slower else base_s / factor
    assert step_s(told.report(1, *reports(then_s, 8))) == pytest.approx(then_s, rel=0.25)


@pytest.mark.parametrize("outlier_s", [1e-6, 0.0005, 0.2, 5.0])
def test_single_report_that_stands_alone_changes_little(outlier_s: float) -> None:
    for place in range(8):
        told = Told()
        told.report(1, *[decode_report(0.010)] * (80 + place))
        told.report(1, decode_report(outlier_s))
        for _ in range(40):
            assert step_s(told.report(1, decode_report(0.010))) == pytest.approx(0.01, rel=0.25)


def test_one_slow_worker_does_not_make_its_pool_slow() -> None:
    told = Told()
    for _ in range(50):
        for worker in range(4):
            told.report(worker, *[decode_report(0.010)] * 8)
    for _ in range(20):
        told.report(9, *[decode_report(0.1)] * 8)
        for worker in range(4):
            told.report(worker, *[decode_report(0.010)] * 8)
    assert step_s(told.of[9]) == pytest.approx(0.1, rel=0.1)
    assert step_s(told.of[0]) == pytest.approx(0.01, rel=0.1)
    assert step_s(told.fits.prior(POOL)) < 0.03


def test_newcomer_is_as_slow_as_its_pool_has_become() -> None:
    told = Told()
    for level_s in (0.010, 0.1):
        for _ in range(20):
            for worker in range(4):
                told.report(worker, *[decode_report(level_s)] * 8)
    assert step_s(told.fits.prior(POOL)) == pytest.approx(0.1, rel=0.2)


def test_worker_that_only_decodes_has_measured_its_steps() -> None:
    told = Told()
    rates = told.report(1, *[decode_report(0.03)] * 20)
    assert rates.step_is_measured and not rates.prefill_is_measured
    assert step_s(rates) == pytest.approx(0.03, rel=0.1)
    told.report(2, *[prefill_report(0.05)] * 20, pool=OTHERS)
    # Others of its digest have.
    assert told.fits.rates(1, told.fits.prior(POOL)).prefill_is_measured


def test_first_short_prompt_that_takes_long_does_not_make_tokens_dear() -> None:
    """It is a step's overhead as far as anybody knows, or the first step's."""
    rates = Told().report(1, prefill_report(0.22, num_tokens=15))
    assert prefill_s(rates, 15) == pytest.approx(0.22, rel=0.1)
    assert prefill_s(rates, 8000) < 4.0
    later = Told()
    later.report(1, prefill_report(0.22, num_tokens=15))
    rates = later.report(1, *[prefill_report(0.01 + n * 1e-5, n) for n in (15, 2000, 500) * 20])
    assert prefill_s(rates, 8000) == pytest.approx(0.09, rel=0.25)


def test_level_changes_when_all_agree_only() -> None:
    level = Level(3)
    theta = (2.0, 1.0)
    for y in (40.0, 44.0):
        level.add((1.0, 2.0), y)
    assert level.factor(theta) == 1.0
    level.add((1.0, 2.0), 48.0)
    assert level.factor(theta) == 11.0
    level.add((1.0, 2.0), 4.0 * NOTICED - 0.01)
    assert level.factor(theta) == 1.0
    for _ in range(3):
        level.add((1.0, 2.0), 1.0)
    assert level.factor(theta) == 0.25


def test_level_needs_fewer_observations_that_are_worth_more() -> None:
    level = Level(5)
    for num_added, (worth, factor) in enumerate([(1.5, 1.0), (1.5, 1.0), (2.0, 3.0), (99.0, 3.0)]):
        level.add((1.0,), 3.0, worth)
        assert level.factor((1.0,)) == factor, num_added
    alone = Level(5)
    alone.add((1.0,), 3.0, 99.0)
    assert alone.factor((1.0,)) == 1.0
    alone.add((1.0,), 3.0, 99.0)
    assert alone.factor((1.0,)) == 3.0
