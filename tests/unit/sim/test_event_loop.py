"""Virtual time: what is done when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.sim.clock import EventLoop, Phase


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Phase))))
def test_order_is_by_instant_then_phase_then_asking(events: list[tuple[int, Phase]]) -> None:
    loop = EventLoop()
    done: list[tuple[float, Phase, int]] = []
    for number, (when, phase) in enumerate(events):
        loop.at(when, phase, lambda p=phase, n=number: done.append((loop.now, p, n)))  # type: ignore[misc]
    loop.run()
    assert done == sorted((float(w), p, n) for n, (w, p) in enumerate(events))


def test_what_is_asked_for_on_the_way_is_done_too() -> None:
    loop = EventLoop()
    seen: list[float] = []

    def tick() -> None:
        seen.append(loop())
        if len(seen) < 3:
            loop.at(loop.now + 0.5, Phase.END, tick)

    loop.at(1.0, Phase.END, tick)
    loop.run()
    assert seen == [1.0, 1.5, 2.0]


def test_the_past_is_refused() -> None:
    loop = EventLoop()
    loop.at(1.0, Phase.END, lambda: loop.at(0.5, Phase.END, lambda: None))
    with pytest.raises(ValueError, match="has passed"):
        loop.run()
