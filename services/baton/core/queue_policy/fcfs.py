"""First come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Fcfs(Generic[T]):
    """QueuePolicy in order of arrival; what comes back goes to the very front."""

    def __init__(self) -> None:
        self._items: OrderedDict[T, None] = OrderedDict()

    def push(self, item: T) -> None:
        self._insert(item)

    def push_front(self, item: T) -> None:
        self._insert(item)
        self._items.move_to_end(item, last=False)

    def peek(self) -> T | None:
        return next(iter(self._items), None)

    def pop(self) -> T:
        if not self._items:
            raise IndexError("pop from an empty queue")
        return self._items.popitem(last=False)[0]

    def remove(self, item: T) -> bool:
        if item not in self._items:
            return False
        del self._items[item]
        return True

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def _insert(self, item: T) -> None:
        if item in self._items:
            raise ValueError(f"{item!r} is in the queue already")
        self._items[item] = None
