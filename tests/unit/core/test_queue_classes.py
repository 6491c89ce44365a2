"""Priority classes over other policies."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from baton.core.queue_policy.base import QueuePolicy
from baton.core.queue_policy.fcfs import Fcfs
from baton.core.queue_policy.priority import Priority
from baton.core.queue_policy.vtc import Vtc


@dataclass(frozen=True)
class Item:
    priority: int
    arrived: float
    tenant: str = ""


def plain(aging_s: float = 0.0) -> Priority[Item, Fcfs[Item]]:
    return Priority(
        lambda item: item.priority, Fcfs, aging_s=aging_s, arrived_of=lambda item: item.arrived
    )


items = st.builds(Item, st.integers(-2, 2), st.integers(0, 1000).map(float))


@given(st.lists(items, unique=True))
def test_higher_classes_first_and_arrival_inside(arrivals: list[Item]) -> None:
    queue = plain()
    for item in arrivals:
        queue.push(item)
    expected = sorted(arrivals, key=lambda item: -item.priority)
    assert list(queue) == expected
    assert [queue.pop() for _ in arrivals] == expected
    assert queue.peek() is None


@given(st.lists(items, unique=True), st.integers(1, 100))
def test_aging_lets_a_long_wait_outweigh_a_class(arrivals: list[Item], aging_s: int) -> None:
    queue = plain(float(aging_s))
    arrivals.sort(key=lambda item: item.arrived)
    for item in arrivals:
        queue.push(item)
    served = [queue.pop() for _ in arrivals]
    ranks = [item.arrived - item.priority * aging_s for item in served]
    assert ranks == sorted(ranks)
    if served:
        assert min(ranks) == ranks[0]


@given(
    st.lists(st.tuples(st.sampled_from(["push", "front", "pop", "remove"]), items)),
    st.sampled_from([0.0, 7.0]),
)
def test_nothing_is_lost(operations: list[tuple[str, Item]], aging_s: float) -> None:
    queue = plain(aging_s)
    here: set[Item] = set()
    for operation, item in operations:
        if operation in ("push", "front"):
            push = queue.push if operation == "push" else queue.push_front
            if item in here:
                with pytest.raises(ValueError, match="already"):
                    push(item)
            else:
                push(item)
            here.add(item)
        elif operation == "pop" and here:
            here.remove(queue.pop())
        elif operation == "remove":
            assert queue.remove(item) == (item in here)
            here.discard(item)
        listed = list(queue)
        assert len(queue) == len(listed) == len(here)
        assert set(listed) == here
        assert queue.peek() == (listed[0] if listed else None)


def test_only_the_highest_goes_before_all() -> None:
    queue = plain()
    assert queue.outranks_all(Item(-2, 0.0))
    queue.push(Item(0, 1.0))
    assert queue.outranks_all(Item(1, 2.0))
    assert not queue.outranks_all(Item(0, 2.0))
    assert not queue.outranks_all(Item(-1, 2.0))


def test_pop_of_an_empty_one_is_an_error() -> None:
    with pytest.raises(IndexError):
        plain().pop()


def test_tenants_share_inside_a_class_only() -> None:
    queue: Priority[Item, Vtc[Item]] = Priority(
        lambda item: item.priority, lambda: Vtc(lambda item: item.tenant, lambda _: 1.0)
    )
    as_policy: QueuePolicy[Item] = queue
    for number in range(3):
        as_policy.push(Item(0, number, "flood"))
    as_policy.push(Item(0, 3, "light"))
    as_policy.push(Item(1, 4, "flood"))
    served = []
    while len(queue):
        item = queue.pop()
        queue.queue(item.priority).charge(item.tenant, 1.0)
        served.append((item.priority, item.tenant))
    # What it got in the upper class is not held against it below.
    assert served == [(1, "flood"), (0, "flood"), (0, "light"), (0, "flood"), (0, "flood")]
