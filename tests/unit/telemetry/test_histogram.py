"""Our histograms say what the client library's would."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from baton.telemetry.histogram import Histogram

BOUNDS = (0.5, 1, 2.5, 10)
values = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 1e6))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), values)))
def test_it_renders_like_the_librarys(observed: list[tuple[str, float]]) -> None:
    disable_created_metrics()
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    one = Histogram("x_seconds", "Some text.", BOUNDS, ("model",), mine)
    other = prometheus_client.Histogram(
        "x_seconds", "Some text.", ("model",), buckets=BOUNDS, registry=theirs
    )
    for label, value in observed:
        one.labels(label).observe(value)
        other.labels(label).observe(value)
    assert generate_latest(mine) == generate_latest(theirs)


def test_without_labels_it_is_shown_before_the_first_value() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("x_bytes", "Some text.", BOUNDS, (), registry)
    assert registry.get_sample_value("x_bytes_count") == 0
    histogram.observe(3)
    assert registry.get_sample_value("x_bytes_sum") == 3
    assert registry.get_sample_value("x_bytes_bucket", {"le": "2.5"}) == 0
    assert registry.get_sample_value("x_bytes_bucket", {"le": "+Inf"}) == 1


def test_wrong_labels_are_refused() -> None:
    histogram = Histogram("x_seconds", "Some text.", BOUNDS, ("model",), CollectorRegistry())
    with pytest.raises(ValueError, match="x_seconds has labels"):
        histogram.observe(1)
    with pytest.raises(ValueError, match="x_seconds has labels"):
        histogram.labels("a", "b")
