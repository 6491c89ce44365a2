"""Rates follow what workers report; where one reports nothing, its pool speaks for it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.planner.linear_fit import LinearFit
from baton.planner.rates import EVERY, Learnt, PoolKey, RateFits, Rates, StepReport

POOL = PoolKey(1, 2)


def prefill_report(tokens: float, base_s: float, s_per_token: float) -> StepReport:
    step_s = base_s + tokens * s_per_token
    return StepReport(tokens / step_s, step_s, 0.0, 0, 0)


def decode_report(
    sequences: int, blocks: int, coefficients: tuple[float, float, float]
) -> StepReport:
    base_s, per_sequence, per_block = coefficients
    step_s = base_s + per_sequence * sequences + per_block * blocks
    return StepReport(0.0, 0.0, step_s, sequences, blocks)


def feed(fits: RateFits, worker: int, reports: list[StepReport], pool: PoolKey = POOL) -> Rates:
    for report in reports:
        for _ in range(EVERY):
            fits.observe(worker, pool, report)
    return fits.rates(worker, fits.prior(pool))


def prompt_s(rates: Rates, num_tokens: int = 1000) -> float:
    return rates.prefill_base_s + num_tokens * rates.prefill_s_per_token


def test_prompt_step_has_an_overhead_and_a_price_for_each_token() -> None:
    rng = random.Random(1)
    reports = [prefill_report(rng.uniform(50, 8000), 0.0165, 1.5e-5) for _ in range(60)]
    rates = feed(RateFits(), 1, reports)
    assert rates.prefill_is_measured
    assert rates.prefill_base_s == pytest.approx(0.0165, rel=0.05)
    assert rates.prefill_s_per_token == pytest.approx(1.5e-5, rel=0.05)


def test_short_prompts_do_not_make_a_worker_look_slow() -> None:
    """Where the overhead is told apart, a worker that has had short prompts only is as fast."""
    fits = RateFits()
    feed(fits, 1, [prefill_report(n, 0.0165, 1.5e-5) for n in (100, 500, 2000, 8000) * 10])
    rates = feed(fits, 2, [prefill_report(60, 0.0165, 1.5e-5)] * 20)
    assert 8000 * rates.prefill_s_per_token == pytest.approx(0.12, rel=0.2)


def test_decode_step_grows_with_sequences_and_with_kv() -> None:
    rng = random.Random(2)
    truth = (0.006, 0.0001, 2e-6)
    reports = [
        decode_report(rng.randrange(1, 200), rng.randrange(10, 9000), truth) for _ in range(80)
    ]
    rates = feed(RateFits(), 1, reports)
    got = (rates.step_base_s, rates.step_s_per_sequence, rates.step_s_per_block)
    assert got == pytest.approx(truth, rel=0.1)


def test_unknown_speeds_change_nothing() -> None:
    fits = RateFits()
    for _ in range(3 * EVERY):
        assert fits.observe(1, POOL, StepReport(0.0, 0.0, 0.0, 5, 9)) is Learnt.NOTHING
    assert fits.prior(POOL) == Rates()
    assert not Rates().prefill_is_measured


def test_first_report_that_says_something_counts() -> None:
    fits = RateFits()
    fits.observe(1, POOL, StepReport(0.0, 0.0, 0.0, 0, 0))
    assert fits.observe(1, POOL, prefill_report(1000, 0.0, 1e-4)) is Learnt.OF_ALL
    assert fits.rates(1, fits.prior(POOL)).prefill_is_measured


def test_pool_is_news_ever_more_seldom() -> None:
    fits = RateFits()
    report = prefill_report(1000, 0.0, 1e-4)
    heard = [fits.observe(1, POOL, report) for _ in range(EVERY * 16)]
    assert heard.count(Learnt.OF_ALL) == 5
    assert heard.count(Learnt.OF_WORKER) == 11


@pytest.mark.parametrize("steps_per_report", [2, 8, 16])
def test_as_much_is_learnt_of_steps_however_few_are_reported(steps_per_report: int) -> None:
    """A worker that reports each step, and one that does not, have left their pool's as far."""
    every, few = RateFits(), RateFits()
    for fits in (every, few):
        feed(fits, 1, [prefill_report(1000, 0.0, 1e-4)] * 40)
    slower = prefill_report(1000, 0.0, 1.2e-4)
    for num_steps in range(1, 321):
        every.observe(2, POOL, slower._replace(num_steps=num_steps))
        if num_steps % steps_per_report == 0:
            few.observe(2, POOL, slower._replace(num_steps=num_steps))
    expected_s = prompt_s(every.rates(2, every.prior(POOL)))
    assert 0.11 < expected_s < 0.12
    assert prompt_s(few.rates(2, few.prior(POOL))) == pytest.approx(expected_s, rel=0.02)


def test_worker_that_has_shown_nothing_is_like_its_pool_then_like_its_digest() -> None:
    fits = RateFits()
    feed(fits, 1, [prefill_report(1000, 0.0, 1e-4)] * 300, PoolKey(1, 1))
    feed(fits, 2, [prefill_report(1000, 0.0, 3e-4)] * 300, PoolKey(1, 2))
    assert prompt_s(fits.prior(PoolKey(1, 1))) == pytest.approx(0.1, rel=0.15)
    assert prompt_s(fits.prior(PoolKey(1, 2))) == pytest.approx(0.3, rel=0.1)
    assert 0.1 < prompt_s(fits.prior(PoolKey(1, 3))) < 0.31
    assert fits.prior(PoolKey(1, 3)).prefill_is_measured
    assert not fits.prior(PoolKey(2, 1)).prefill_is_measured


def test_slower_worker_is_told_apart_from_its_pool_and_followed() -> None:
    fits = RateFits()
    for worker in range(5):
        feed(fits, worker, [prefill_report(1000, 0.0, 1e-4)] * 30)
    slow = feed(fits, 9, [prefill_report(1000, 0.0, 4e-4)] * 300)
    assert prompt_s(slow) == pytest.approx(0.4, rel=0.1)
    recovered = feed(fits, 9, [prefill_report(1000, 0.0, 1e-4)] * 600)
    assert prompt_s(recovered) == pytest.approx(0.1, rel=0.1)


def test_one_disturbed_step_does_not_make_a_worker_slow() -> None:
    fits = RateFits()
    for worker in range(3):
        feed(fits, worker, [decode_report(8, 80, (0.005, 0.0, 0.0))] * 10)
    disturbed = feed(fits, 9, [decode_report(8, 80, (0.05, 0.0, 0.0))])
    step_s = disturbed.step_base_s + 8 * disturbed.step_s_per_sequence
    assert step_s + 80 * disturbed.step_s_per_block < 0.01


def test_forgotten_worker_starts_from_its_pool_again() -> None:
    fits = RateFits()
    feed(fits, 1, [prefill_report(1000, 0.0, 1e-4)] * 60)
    feed(fits, 2, [prefill_report(1000, 0.0, 9e-4)] * 5)
    fits.forget(2)
    rates = feed(fits, 2, [prefill_report(1000, 0.0, 1e-4)] * 5)
    assert rates.prefill_s_per_token < 2e-4


def test_rate_without_a_step_time_is_taken_as_it_is() -> None:
    """Workers of an older build report the rate alone."""
    rates = feed(RateFits(), 1, [StepReport(20_000.0, 0.0, 0.0, 0, 0)] * 40)
    assert rates.prefill_s_per_token == pytest.approx(1 / 20_000, rel=0.1)
    assert rates.prefill_base_s == pytest.approx(0.0, abs=1e-3)


positive = st.floats(1e-6, 1e3, allow_nan=False)


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_coefficients_are_finite_and_never_negative(rows: list[tuple[float, float, float]]) -> None:
    fit = LinearFit(2, 0.97, 1e-3)
    for x1, x2, y in rows:
        fit.add((x1, x2), y)
    theta = fit.solve((0.0, 0.0))
    assert all(0 <= value < float("inf") for value in theta)


def test_prior_stays_where_nothing_has_been_told_apart() -> None:
    fit = LinearFit(2, 1.0, 0.1)
    for _ in range(100):
        fit.add((1.0, 0.0), 2.0)
    first, second = fit.solve((5.0, 7.0))
    assert first == pytest.approx(2.0, rel=0.01)
    assert second == pytest.approx(7.0)
