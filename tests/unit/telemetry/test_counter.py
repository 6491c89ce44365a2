"""Our counters say what the client library's would."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from baton.telemetry.counter import Counter

LABELS = ("model", "code")
label_values = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["ok", "a"]))


@given(
    st.lists(st.tuples(label_values, st.one_of(st.integers(0, 9), st.floats(0, 1e6)))),
    st.lists(st.dictionaries(st.sampled_from(LABELS), st.sampled_from(["a", "ok"]), min_size=1)),
)
def test_it_renders_like_the_librarys(
    counted: list[tuple[tuple[str, str], float]], removed: list[dict[str, str]]
) -> None:
    disable_created_metrics()
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    one = Counter("x_total", "Some text.", LABELS, mine)
    other = prometheus_client.Counter("x_total", "Some text.", LABELS, registry=theirs)
    for values, amount in counted:
        one.labels(*values).inc(amount)
        other.labels(*values).inc(amount)
    for labels in removed:
        one.remove_by_labels(labels)
        other.remove_by_labels(labels)
    assert generate_latest(mine) == generate_latest(theirs)


def test_without_labels_it_is_shown_before_the_first_count() -> None:
    registry = CollectorRegistry()
    counter = Counter("x_total", "Some text.", (), registry)
    assert registry.get_sample_value("x_total") == 0
    counter.inc()
    assert registry.get_sample_value("x_total") == 1


def test_it_only_rises() -> None:
    counter = Counter("x_total", "Some text.", (), CollectorRegistry())
    with pytest.raises(ValueError, match="only rises"):
        counter.inc(-1)


def test_wrong_labels_are_refused() -> None:
    counter = Counter("x_total", "Some text.", ("model",), CollectorRegistry())
    with pytest.raises(ValueError, match="x_total has labels"):
        counter.inc()
    with pytest.raises(ValueError, match="x_total has labels"):
        counter.labels("a", "b")
