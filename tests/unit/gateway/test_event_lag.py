"""Lateness of events, without clocks that agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.gateway.workers.event_lag import NUM_WINDOWS, WINDOW_S, EventLag

seconds = st.floats(0, 5)


@given(offset=st.floats(-1e6, 1e6), events=st.lists(st.tuples(seconds, seconds), min_size=1))
def test_lag_is_the_delay_above_the_least_whatever_the_clocks(
    offset: float, events: list[tuple[float, float]]
) -> None:
    lag, now, least = EventLag(), 1000.0, float("inf")
    for wait_s, delay_s in events:
        now += wait_s
        least = min(least, delay_s)
        assert lag.of(now - delay_s + offset, now) == pytest.approx(delay_s - least, abs=1e-6)


def test_what_was_quick_long_ago_counts_no_longer() -> None:
    lag = EventLag()
    assert lag.of(0.0, 0.01) == 0
    # The clocks have drifted apart by a second.
    almost = WINDOW_S * NUM_WINDOWS - 1
    assert lag.of(almost - 1.01, almost) == pytest.approx(1)
    later = WINDOW_S * NUM_WINDOWS + 1
    assert lag.of(later - 1.01, later) == pytest.approx(0)
