"""One HTTP request, and the way back to its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from baton.gateway.http.asgi import Headers, response_headers

CONNECTION = "baton.connection"
"""Key of the scope under which our own HTTP server leaves the request's Connection."""


class Connection:
    """Tells when a client's connection is lost."""

    __slots__ = ("_is_lost", "_listeners")

    def __init__(self) -> None:
        self._listeners: set[Callable[[], None]] = set()
        self._is_lost = False

    def listen(self, gone: Callable[[], None]) -> None:
        """Call `gone` when it is lost; at once if it is."""
        if self._is_lost:
            gone()
        else:
            self._listeners.add(gone)

    def forget(self, gone: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.discard(gone)

    def lost(self) -> None:
        """The server has noticed."""
        self._is_lost = True
        listeners, self._listeners = self._listeners, set()
        for gone in listeners:
            gone()


class Exchange:
    """What an endpoint gets from its server: where to answer, and whether anybody still listens."""

    __slots__ = ("_watcher", "headers", "receive", "request_id", "scope", "send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        # Those that every response to this request has.
        self.headers: Headers = response_headers(scope)
        self.request_id: str = scope["baton.request_id"]
        self._watcher: asyncio.Task[None] | None = None

    def rename(self, request_id: str) -> None:
        """The client's own name for the request, which came in its body."""
        self.request_id = request_id
        value = (b"x-request-id", request_id.encode())
        self.headers[:] = [value if name == value[0] else (name, v) for name, v in self.headers]

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the client goes away, until `unwatch`. The body has been read."""
        connection = self.scope.get(CONNECTION)
        if connection is not None:
            connection.listen(gone)
        else:
            # Another server tells only those who read on.
            self._watcher = asyncio.create_task(self._await_disconnect(gone))

    def unwatch(self, gone: Callable[[], None]) -> None:
        """The answer is over."""
        connection = self.scope.get(CONNECTION)
        if connection is not None:
            connection.forget(gone)
        elif self._watcher is not None:
            self._watcher.cancel()

    async def _await_disconnect(self, gone: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        gone()

    def chunked_transport(self) -> asyncio.Transport | None:
        """The transport behind uvicorn's `receive` once a chunked response has begun, else None.

        Writing there saves the way through the task that waits, and through `send`: a sixth of all
        that the gateway does for a token. (`send` leads there too, but middlewares have wrapped
        it.)
        """
        cycle = getattr(self.receive, "__self__", None)
        if isinstance(cycle, RequestResponseCycle) and cycle.chunked_encoding:
            return cycle.transport
        return None
