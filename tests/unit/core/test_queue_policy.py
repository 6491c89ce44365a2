"""Queue policies against a plain list."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from baton.core.queue_policy.base import QueuePolicy
from baton.core.queue_policy.fcfs import Fcfs


def test_fcfs_serves_in_order_of_arrival() -> None:
    queue: QueuePolicy[str] = Fcfs()
    for item in "abc":
        queue.push(item)
    assert queue.peek() == "a"
    assert [queue.pop() for _ in range(3)] == ["a", "b", "c"]
    assert queue.peek() is None


def test_what_comes_back_goes_first() -> None:
    queue: QueuePolicy[str] = Fcfs()
    queue.push("a")
    queue.push("b")
    queue.push_front("back")
    queue.push_front("older")
    assert list(queue) == ["older", "back", "a", "b"]


def test_an_item_waits_once() -> None:
    queue: QueuePolicy[str] = Fcfs()
    queue.push("a")
    for push in (queue.push, queue.push_front):
        with pytest.raises(ValueError, match="already"):
            push("a")
    assert len(queue) == 1


def test_pop_of_an_empty_queue_is_an_error() -> None:
    with pytest.raises(IndexError):
        Fcfs[str]().pop()


@given(st.lists(st.tuples(st.sampled_from(["push", "front", "pop", "remove"]), st.integers(0, 9))))
def test_fcfs_agrees_with_a_list(operations: list[tuple[str, int]]) -> None:
    queue: QueuePolicy[int] = Fcfs()
    model: list[int] = []
    for operation, item in operations:
        if operation == "push" and item not in model:
            queue.push(item)
            model.append(item)
        elif operation == "front" and item not in model:
            queue.push_front(item)
            model.insert(0, item)
        elif operation == "pop" and model:
            assert queue.pop() == model.pop(0)
        elif operation == "remove":
            assert queue.remove(item) == (item in model)
            model = [other for other in model if other != item]
        assert list(queue) == model
        assert len(queue) == len(model)
        assert queue.peek() == (model[0] if model else None)
