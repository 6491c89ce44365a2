"""A worker's event log that loses events on the way to its watchers."""

from __future__ import annotations

from typing import Any, cast

from baton.worker.events import EventLog, Response, Watcher


class LossyEventLog(EventLog):
    """`num_to_lose` deltas are never sent."""

    num_to_lose = 0

    async def serve(self, watcher: Watcher) -> None:
        await super().serve(cast(Watcher, _Lossy(watcher, self)))


class _Lossy:
    """A watcher's stream, with what it does not lose."""

    def __init__(self, stream: Watcher, log: LossyEventLog) -> None:
        self._stream = stream
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def send(self, response: Response) -> None:
        if self._log.num_to_lose and response.HasField("delta"):
            self._log.num_to_lose -= 1
        else:
            self._stream.send(response)
