"""In what order waiting things are served. Pure: no clock, no I/O, no locks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T", bound=Hashable)


class QueuePolicy(Protocol[T]):
    """A queue that decides its own order. The gateway queues requests, the engine sequences.

    Items are told apart by hash and equality; each is in the queue at most once.
    """

    def push(self, item: T) -> None:
        """A new arrival. Raises ValueError when it is here already."""

    def push_front(self, item: T) -> None:
        """Something that was served before and came back: it goes before its equals.

        Raises ValueError when it is here already.
        """

    def peek(self) -> T | None:
        """The next to be served, or None."""

    def pop(self) -> T:
        """Take out the next to be served. Raises IndexError when empty."""

    def remove(self, item: T) -> bool:
        """Take out any item; False when it is not here. Constant time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T]:
        """All items in the order of service. The queue must not change meanwhile."""


def pop_next(queue: QueuePolicy[T]) -> T:
    """`pop` of a queue that looks and takes out: raises IndexError when it is empty."""
    item = queue.peek()
    if item is None:
        raise IndexError("pop from an empty queue")
    queue.remove(item)
    return item
