"""A watcher hears of each difference once."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from baton.store.base import WatchEvent
from baton.store.view import View

ENTRIES = st.dictionaries(st.sampled_from("abc"), st.sampled_from([b"1", b"2"]))


def _follow(known: dict[str, bytes], events: list[WatchEvent]) -> None:
    for event in events:
        if event.kind == "put":
            known[event.key] = event.value
        elif event.kind != "synced":
            del known[event.key]


def test_a_resync_sends_everything_again_and_what_vanished_first() -> None:
    view = View()
    view.resync({"a": b"1", "b": b"2"})
    assert view.resync({"b": b"2", "c": b"3"}) == [
        WatchEvent("expired", "a"),
        WatchEvent("put", "b", b"2"),
        WatchEvent("put", "c", b"3"),
        WatchEvent("synced"),
    ]


def test_a_comparison_sends_differences_only() -> None:
    view = View()
    view.resync({"a": b"1", "b": b"2", "c": b"3"})
    assert view.compare({"b": b"2", "c": b"4"}) == [
        WatchEvent("expired", "a"),
        WatchEvent("put", "c", b"4"),
    ]
    assert view.compare({"b": b"2", "c": b"4"}) == []


def test_what_is_known_is_not_told_again() -> None:
    view = View()
    put, gone = WatchEvent("put", "a", b"1"), WatchEvent("deleted", "a")
    assert view.apply(put) == [put]
    assert view.apply(put) == []
    assert view.apply(gone) == [gone]
    assert view.apply(gone) == []
    assert view.apply(WatchEvent("expired", "a")) == []


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), ENTRIES), max_size=8))
def test_following_the_events_gives_the_entries(steps: list[tuple[bool, dict[str, bytes]]]) -> None:
    view, known = View(), dict[str, bytes]()
    for cut, entries in steps:
        _follow(known, view.resync(entries) if cut else view.compare(entries))
        assert known == entries
