"""One visit of the event loop for all streams that have something to write."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Flushable(Protocol):
    """Has events that wait to be written."""

    def flush(self) -> None:
        """Write them."""


class Flushes:
    """Flushes streams at the end of the loop's turn in which they asked for it.

    A frame brings tokens for many streams: a callback for each would cost them a tenth more.
    """

    def __init__(self) -> None:
        self._due: list[Flushable] = []

    def add(self, stream: Flushable) -> None:
        """Flush it soon. The stream sees to it that it asks once only."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.append(stream)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for stream in due:
            stream.flush()
