"""Ctrl-C and SIGTERM: the first asks a process to end, the second forces it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


# Tools that end a process and its group, as `timeout` does, send SIGTERM twice.
REPEAT_S = 1.0


def is_repeat(first: int, number: int, elapsed_s: float) -> bool:
    """Whether a further signal, so long after the first, is the same wish said twice."""
    return first == number == signal.SIGTERM and elapsed_s <= REPEAT_S


class Stopped(Exception):
    """Somebody asked the process to end before what was awaited was there."""


class StopSignals:
    """`asked` is set by the first signal, `forced` by a further one. Make it inside the loop."""

    def __init__(self) -> None:
        # The first: SIGTERM comes from whoever runs the process, Ctrl-C from somebody who waits.
        self.first: signal.Signals | None = None
        self._first_at = 0.0
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        now = asyncio.get_running_loop().time()
        if self.first is None:
            self.first, self._first_at = number, now
            self.asked.set()
        elif not is_repeat(self.first, number, now - self._first_at):
            self.forced.set()

    async def unless_asked(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or Stopped, with `work` cancelled, once a signal came."""
        return await _unless(work, self.asked)

    async def unless_forced(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for the second signal."""
        return await _unless(work, self.forced)


async def _unless(work: Coroutine[Any, Any, T], event: asyncio.Event) -> T:
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise Stopped
        return task.result()
    finally:
        waiter.cancel()
