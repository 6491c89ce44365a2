"""Higher classes first; inside a class another policy decides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

from baton.core.queue_policy.base import QueuePolicy, pop_next

T = TypeVar("T", bound=Hashable)
Q = TypeVar("Q", bound=QueuePolicy[Any])


class Priority(Generic[T, Q]):
    """QueuePolicy over classes: of all classes' heads, the one with the highest class is served.

    `class_of` gives an item's class, for ever the same (a number; higher goes first), `new_queue` a
    class's empty queue. With `aging_s` a head that has waited so many seconds longer than another
    counts as one class higher than it is, so no class starves; `arrived_of` gives its instant of
    arrival. That needs no clock, as all heads age alike. There should be few classes: each look
    compares all that are not empty.
    """

    def __init__(
        self,
        class_of: Callable[[T], int],
        new_queue: Callable[[], Q],
        *,
        aging_s: float = 0.0,
        arrived_of: Callable[[T], float] = lambda _: 0.0,
    ) -> None:
        self._class_of = class_of
        self._new_queue = new_queue
        self._aging_s = aging_s
        self._arrived_of = arrived_of
        self._queues: dict[int, Q] = {}
        self._length = 0

    def queue(self, number: int) -> Q:
        """The queue of a class."""
        queue = self._queues.get(number)
        if queue is None:
            queue = self._queues[number] = self._new_queue()
            # Highest first, so that it wins where ages leave a tie.
            self._queues = dict(sorted(self._queues.items(), reverse=True))
        return queue

    def classes(self) -> Iterator[tuple[int, Q]]:
        """Classes that were ever used and their queues, highest first."""
        return iter(self._queues.items())

    def outranks_all(self, item: T) -> bool:
        """Whether an item that is not here would be served before all that are."""
        rank = self._rank(self._class_of(item), item)
        return all(rank < self._rank(*head) for head in self._heads())

    def push(self, item: T) -> None:
        self.queue(self._class_of(item)).push(item)
        self._length += 1

    def push_front(self, item: T) -> None:
        self.queue(self._class_of(item)).push_front(item)
        self._length += 1

    def peek(self) -> T | None:
        head = min(self._heads(), key=lambda head: self._rank(*head), default=None)
        return None if head is None else head[1]

    def pop(self) -> T:
        return pop_next(self)

    def remove(self, item: T) -> bool:
        queue = self._queues.get(self._class_of(item))
        if queue is None or not queue.remove(item):
            return False
        self._length -= 1
        return True

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        rest = {number: iter(queue) for number, queue in self._queues.items()}
        heads = {number: next(items, None) for number, items in rest.items()}
        while live := [(number, item) for number, item in heads.items() if item is not None]:
            number, item = min(live, key=lambda head: self._rank(*head))
            yield item
            heads[number] = next(rest[number], None)

    def _heads(self) -> Iterator[tuple[int, T]]:
        for number, queue in self._queues.items():
            item = queue.peek()
            if item is not None:
                yield number, item

    def _rank(self, number: int, item: T) -> float:
        """Lowest is served first."""
        if not self._aging_s:
            return -float(number)
        return self._arrived_of(item) - number * self._aging_s
