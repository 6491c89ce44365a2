"""A refused action waits for itself, longer each time, and is told meanwhile."""

from __future__ import annotations

from typing import Any

from baton_operator.actions import Apply, Emit, Scale
from baton_operator.rounds.queue import WorkQueue
from baton_operator.rounds.refusals import Refusals
from baton_operator.seen import Refused


def refusals() -> Refusals:
    made = Refusals(WorkQueue[str](0.5, backoff_s=1.0, max_backoff_s=8.0).backoff)
    made.begin(1)
    return made


def ingress(**spec: Any) -> Apply:
    return Apply({"kind": "Ingress", "metadata": {"name": "chat"}, "spec": spec})


DENIED = Refused("Ingress", "chat", 403, "Forbidden", "denied")


def test_each_refusal_waits_twice_as_long_up_to_the_bound() -> None:
    found, now, waits = refusals(), 0.0, []
    for _ in range(5):
        assert found.held_back([ingress()], now) == []
        found.note([], [(ingress(), DENIED)], now)
        wait = found.next_s(now)
        assert wait is not None
        assert found.held_back([ingress()], now + wait - 0.1) == [ingress()]
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 8]


def test_what_waits_is_told_and_holds_nothing_else_up() -> None:
    found = refusals()
    found.note([], [(ingress(), DENIED)], 0.0)
    scale = Scale("Deployment", "chat", "u", 5, 3)
    held = found.held_back([scale, ingress(), Emit("Normal", "A", "b")], 0.5)
    assert held == [ingress()]
    found.note(held, [], 0.5)
    assert found.told == (DENIED,) and found.next_s(0.5) == 0.5


def test_what_asks_for_something_else_does_not_wait() -> None:
    found = refusals()
    found.note([], [(ingress(), DENIED)], 0.0)
    assert found.held_back([ingress(host="b.example")], 0.1) == []


def test_what_was_done_or_is_not_wanted_any_more_is_forgotten() -> None:
    found = refusals()
    found.note([], [(ingress(), DENIED)], 0.0)
    found.note([], [], 1.0)
    assert found.told == () and found.next_s(1.0) is None


def test_another_spec_is_told_nothing_of_the_last_ones_refusals() -> None:
    found = refusals()
    found.note([], [(ingress(), DENIED)], 0.0)
    found.begin(1)
    assert found.told == (DENIED,)
    found.begin(2)
    assert not found.told and not found.held_back([ingress()], 0.1)
