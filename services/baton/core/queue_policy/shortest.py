"""Least work first, without starving what is long: a virtual clock counts the work that was done.

    turn = work done when it came + its own work

The lowest turn is served first, so an item waits for later ones only as long as less work than its
own has been done since it came. Compare the finish tags of fair queueing (Demers, Keshav and
Shenker, 1989), with each item as a flow of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from baton.core.queue_policy.base import pop_next
from baton.core.queue_policy.fcfs import Fcfs

T = TypeVar("T", bound=Hashable)


class ShortestFirst(Generic[T]):
    """QueuePolicy by turn, `turn_of` an item when it is pushed; equals in order of arrival.

    What comes back goes to the very front. For short queues: a push takes linear time.
    """

    def __init__(self, turn_of: Callable[[T], float]) -> None:
        self._turn_of = turn_of
        self._returned: Fcfs[T] = Fcfs()
        # In order, and their turns beside them.
        self._items: list[T] = []
        self._turns: list[float] = []
        # Turn by item.
        self._known: dict[T, float] = {}

    def push(self, item: T) -> None:
        if item in self._known or item in self._returned:
            raise ValueError(f"{item!r} is in the queue already")
        turn = self._known[item] = self._turn_of(item)
        at = bisect_right(self._turns, turn)
        self._items.insert(at, item)
        self._turns.insert(at, turn)

    def push_front(self, item: T) -> None:
        if item in self._known:
            raise ValueError(f"{item!r} is in the queue already")
        self._returned.push_front(item)

    def peek(self) -> T | None:
        return next(iter(self), None)

    def pop(self) -> T:
        return pop_next(self)

    def remove(self, item: T) -> bool:
        if self._returned.remove(item):
            return True
        turn = self._known.pop(item, None)
        if turn is None:
            return False
        # Equal turns lie side by side.
        at = bisect_right(self._turns, turn) - 1
        while self._items[at] != item:
            at -= 1
        del self._items[at], self._turns[at]
        return True

    def __len__(self) -> int:
        return len(self._returned) + len(self._items)

    def __iter__(self) -> Iterator[T]:
        return chain(self._returned, self._items)
