"""What is to be written to a stream: the first message leaves at once, the others in its wake.

A pump on a task of its own would write it a turn of the event loop later, behind whatever else is
ready, which is most of what a message costs here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Outbox(Generic[T]):
    """On the asyncio thread. One write at a time, in the order of `put`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[T] = deque()
        self._write: Callable[[T], Coroutine[Any, Any, None]] | None = None
        # The write that is under way.
        self._writing: Coroutine[Any, Any, None] | None = None

    def __len__(self) -> int:
        """Messages of which no byte is written."""
        return len(self._waiting)

    def open(self, write: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        """Write what waits, and from now on what is put."""
        self._write = write
        self._go_on()

    def put(self, message: T) -> None:
        """Write a message when those before it are; before this returns, if there are none."""
        self._waiting.append(message)
        if self._writing is None:
            self._go_on()

    def close(self) -> None:
        """Write no more. Idempotent."""
        self._write = None
        self._waiting.clear()
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.close()

    def _go_on(self) -> None:
        while self._write is not None and (self._writing is not None or self._waiting):
            if self._writing is None:
                self._writing = self._write(self._waiting.popleft())
            try:
                waits_for = self._writing.send(None)
            except StopIteration:
                self._writing = None
            except Exception:
                # Whoever reads the same stream sees it end too, and says so.
                log.debug("writing to a stream", exc_info=True)
                self._writing = None
                self.close()
            else:
                self._resume_after(waits_for)
                return

    def _resume_after(self, waits_for: asyncio.Future[Any] | None) -> None:
        """Go on once what the write waits for is there, as a Task does."""
        writing = self._writing

        def resume(_: object = None) -> None:
            if self._writing is writing:
                self._go_on()

        if waits_for is None:
            self._loop.call_soon(resume)
        else:
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(resume)
