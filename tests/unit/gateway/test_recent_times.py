"""Quantiles of recent times: right within a bin, forgotten in time, in bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.gateway.recent import NUM_STEPS, RecentTimes, Times, quantile
from fakes.clock import ManualClock

WINDOW_S = 300.0
STEP_S = WINDOW_S / NUM_STEPS


@given(
    times=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=50),
    share=st.floats(0.01, 0.99),
)
def test_a_quantile_is_that_of_the_times_within_a_bin(times: list[float], share: float) -> None:
    recent = RecentTimes(WINDOW_S, ManualClock())
    for seconds in times:
        recent.ended(seconds, None, failed=False)
    found = quantile(recent.times().ttft, share)
    exact = sorted(times)[max(0, math.ceil(share * len(times) - 1e-9) - 1)]
    assert found == pytest.approx(exact, rel=0.026)


def test_of_nothing_there_is_no_quantile() -> None:
    recent = RecentTimes(WINDOW_S, ManualClock())
    recent.ended(None, None, failed=True)
    times = recent.times()
    assert (times.requests, times.errors) == (1, 1)
    assert quantile(times.ttft, 0.95) is None and quantile(times.tpot, 0.95) is None


def test_odd_times_are_counted_at_the_ends() -> None:
    recent = RecentTimes(WINDOW_S, ManualClock())
    for seconds in (0.0, -1.0, 1e9):
        recent.ended(seconds, seconds, failed=False)
    assert sum(recent.times().ttft.values()) == 3


@given(
    events=st.lists(
        st.tuples(st.floats(0, 100), st.sampled_from([None, 0.01, 1.0]), st.booleans()),
        max_size=60,
    )
)
def test_the_window_has_what_ended_in_it_and_nothing_older(
    events: list[tuple[float, float | None, bool]],
) -> None:
    clock = ManualClock()
    recent = RecentTimes(WINDOW_S, clock)
    ended: list[tuple[float, bool]] = []
    for wait_s, ttft_s, failed in events:
        clock.advance(wait_s)
        recent.ended(ttft_s, None, failed=failed)
        ended.append((clock(), failed))
        surely = [one for one in ended if clock() - one[0] <= WINDOW_S - STEP_S]
        maybe = [one for one in ended if clock() - one[0] <= WINDOW_S]
        times = recent.times()
        assert len(surely) <= times.requests <= len(maybe)
        assert sum(f for _, f in surely) <= times.errors <= sum(f for _, f in maybe)
        assert len(recent._steps) <= NUM_STEPS


def test_times_of_several_processes_add_up() -> None:
    one, two = RecentTimes(WINDOW_S, ManualClock()), RecentTimes(WINDOW_S, ManualClock())
    for _ in range(3):
        one.ended(0.1, 0.01, failed=False)
    two.ended(10.0, None, failed=True)
    found = one.times()
    found.add(Times.from_json(two.times().to_json()))
    assert (found.requests, found.errors) == (4, 1)
    assert quantile(found.ttft, 0.75) == pytest.approx(0.1, rel=0.026)
    assert quantile(found.ttft, 0.76) == pytest.approx(10.0, rel=0.026)
