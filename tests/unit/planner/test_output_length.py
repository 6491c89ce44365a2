"""How long answers are expected to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from baton.planner.output_length import LEAST_OBSERVED, MAX_TENANTS, WINDOW, OutputLengths


def test_nothing_is_expected_of_an_unknown_model() -> None:
    assert OutputLengths().predict("m", "", 100) == 0


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=3 * WINDOW))
def test_median_of_the_newest_answers(lengths: list[int]) -> None:
    predictor = OutputLengths()
    for length in lengths:
        predictor.ended("m", "", length)
    window = sorted(lengths[-WINDOW:])
    assert predictor.predict("m", "", 10_000) == window[len(window) // 2]


def test_tenant_counts_once_enough_of_it_is_known() -> None:
    predictor = OutputLengths()
    for _ in range(50):
        predictor.ended("m", "talkative", 1000)
    for seen in range(LEAST_OBSERVED):
        expected = 1000 if seen < LEAST_OBSERVED else 10
        assert predictor.predict("m", "terse", 5000) == expected
        predictor.ended("m", "terse", 10)
    assert predictor.predict("m", "terse", 5000) == 10
    assert predictor.predict("m", "talkative", 5000) == 1000


def test_limit_of_the_request_bounds_what_is_expected() -> None:
    predictor = OutputLengths()
    predictor.ended("m", "", 1000)
    assert predictor.predict("m", "", 64) == 64


def test_tenants_that_were_not_seen_for_long_are_forgotten() -> None:
    predictor = OutputLengths()
    for _ in range(LEAST_OBSERVED):
        predictor.ended("m", "first", 7)
    for number in range(MAX_TENANTS):
        predictor.ended("m", f"tenant-{number}", 900)
    assert predictor.predict("m", "first", 5000) == 900


def test_answers_that_were_cut_off_do_not_make_the_others_look_short() -> None:
    """Deadlines cut long answers: that one had 100 tokens by then says that it is longer."""
    predictor = OutputLengths()
    for length in (50, 400, 600) * 20:
        predictor.ended("m", "", min(length, 100), is_complete=length <= 100)
    assert predictor.predict("m", "", 1000) == 100
    predictor = OutputLengths()
    for length in (50, 400, 600) * 20:
        predictor.ended("m", "", length)
    for length in (50, 400, 600) * 200:
        predictor.ended("m", "", min(length, 100), is_complete=length <= 100)
    assert 400 <= predictor.predict("m", "", 1000) <= 600


def test_answers_that_ended_at_once_tell_nothing_of_longer_ones() -> None:
    predictor = OutputLengths()
    for _ in range(10):
        predictor.ended("m", "", 300)
    for _ in range(WINDOW):
        predictor.ended("m", "", 1, is_complete=False)
    assert predictor.predict("m", "", 1000) == 300
