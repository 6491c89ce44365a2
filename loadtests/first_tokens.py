"""How long a worker had each request before its first token left: the part of a client's wait that
is not the gateway's.

From the moment a Submit is taken off the worker's stream to the moment the frame with the
first row is given to it, so both ends of the hop between gateway and worker count as the gateway's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from baton.v1 import session_pb2
from baton.worker import worker
from baton.worker.gateway_session import GatewayStream
from baton.worker.sessions import Sessions


class _Stream:
    """A session's stream as `Sessions` sees it, watched."""

    def __init__(self, stream: GatewayStream, note: Callable[[str, float], None]) -> None:
        self._stream = stream
        self._note = note
        # Slot to request and arrival, while its first token has not left.
        self._waits: dict[int, tuple[str, float]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aiter__(self) -> AsyncIterator[session_pb2.SessionRequest]:
        async for request in self._stream:
            now = time.monotonic()
            for submit in request.submits:
                self._waits[submit.slot] = (submit.request_id, now)
            for slot in request.forget.slots:
                self._waits.pop(slot, None)
            yield request

    def send(self, response: session_pb2.SessionResponse) -> None:
        if self._waits:
            now = time.monotonic()
            frame = response.frame
            for slot, position in zip(frame.slot, frame.position, strict=True):
                if position == 0 and slot in self._waits:
                    request_id, arrived = self._waits.pop(slot)
                    self._note(request_id, now - arrived)
        self._stream.send(response)


def write_first_tokens(path: Path) -> None:
    """Have this process's workers, to be made from now on, note each request in a file."""
    file = path.open("a", buffering=1)

    def note(request_id: str, seconds: float) -> None:
        file.write(f"{request_id} {seconds:.9f}\n")

    class Watched(Sessions):
        async def serve(self, gateway: GatewayStream) -> None:
            stream: Any = _Stream(gateway, note)
            await super().serve(stream)

    worker.Sessions = Watched  # type: ignore[attr-defined]


def read_first_tokens(path: Path) -> dict[str, float]:
    """Seconds by request."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {request_id: float(seconds) for request_id, seconds in pairs}
