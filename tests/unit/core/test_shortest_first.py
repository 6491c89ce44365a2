"""Least work first, and how long something large waits for small ones."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from baton.core.queue_policy.base import QueuePolicy
from baton.core.queue_policy.shortest import ShortestFirst


class Counter:
    """Serves from a queue of (number, size); a virtual clock counts what was served."""

    def __init__(self) -> None:
        self.work = 0
        self.queue: QueuePolicy[tuple[int, int]] = ShortestFirst(lambda item: self.work + item[1])

    def serve(self) -> tuple[int, int]:
        item = self.queue.pop()
        self.work += item[1]
        return item


def test_shorter_ones_first_and_equals_in_order_of_arrival() -> None:
    queue = Counter().queue
    for item in ((0, 5), (1, 2), (2, 5), (3, 1)):
        queue.push(item)
    assert queue.peek() == (3, 1)
    assert list(queue) == [(3, 1), (1, 2), (0, 5), (2, 5)]


def test_what_comes_back_goes_before_all() -> None:
    queue = Counter().queue
    queue.push((0, 1))
    queue.push_front((1, 90))
    queue.push_front((2, 80))
    assert list(queue) == [(2, 80), (1, 90), (0, 1)]
    assert queue.remove((1, 90)) and not queue.remove((1, 90))
    assert len(queue) == 2


def test_an_item_waits_once() -> None:
    queue = Counter().queue
    queue.push((0, 1))
    queue.push_front((1, 1))
    for item in ((0, 1), (1, 1)):
        for push in (queue.push, queue.push_front):
            with pytest.raises(ValueError, match="already"):
                push(item)
    with pytest.raises(IndexError):
        Counter().queue.pop()


def test_a_large_item_waits_for_no_more_than_its_own_work() -> None:
    counter = Counter()
    counter.queue.push((0, 100))
    number, item = 0, (-1, -1)
    while item != (0, 100):
        # There is always something small.
        number += 1
        counter.queue.push((number, 7))
        item = counter.serve()
    # It was served before what came when 93 had been done.
    assert counter.work - 100 == 98


@given(st.lists(st.tuples(st.sampled_from(["push", "front", "pop", "remove"]), st.integers(0, 9))))
def test_agrees_with_a_list(operations: list[tuple[str, int]]) -> None:
    work = 0
    queue: QueuePolicy[int] = ShortestFirst(lambda item: work + item % 4)
    # (whether it did not come back, turn, order, item)
    model: list[tuple[bool, int, int, int]] = []
    for order, (operation, item) in enumerate(operations):
        known = item in [entry[3] for entry in model]
        if operation == "push" and not known:
            queue.push(item)
            model.append((True, work + item % 4, order, item))
        elif operation == "front" and not known:
            queue.push_front(item)
            model.append((False, 0, -order, item))
        elif operation == "pop" and model:
            assert queue.pop() == min(model)[3]
            model.remove(min(model))
            work += 1
        elif operation == "remove":
            assert queue.remove(item) == known
            model = [entry for entry in model if entry[3] != item]
        assert list(queue) == [entry[3] for entry in sorted(model)]
        assert len(queue) == len(model)
        assert queue.peek() == (min(model)[3] if model else None)
