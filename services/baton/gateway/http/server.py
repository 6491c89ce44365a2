"""uvicorn (httptools) on a socket that is ours, inside a loop that is ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from starlette.types import ASGIApp

from baton.core.errors import ConfigError, UnavailableError
from baton.gateway.answer.base import OpenAnswers
from baton.gateway.http.protocol import KEEP_ALIVE_S, Protocol
from baton.telemetry.certificates import Certificates

# For the last bytes of answers that were ended, and for connections to close.
_FLUSH_S = 1.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop; for `asyncio.Runner(loop_factory=new_event_loop)`."""
    return uvloop.new_event_loop()


class _Server(uvicorn.Server):
    """Leaves signals to the process that it runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """An app served on a socket, from `start` to `stop`. Its context is opened by the caller.

    With `certificates` it speaks TLS, and nothing else.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, certificates: Certificates | None = None
    ) -> None:
        self._listener = listener
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            # Nothing here depends on the client's address.
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        if certificates is not None:
            config.ssl = certificates.server_context()
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def num_connections(self) -> int:
        """Open ones, idle ones included."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise ConfigError("the HTTP server did not start")
            await asyncio.sleep(0.005)

    async def stop(self, answers: OpenAnswers, grace_s: float) -> None:
        """Accept no more, give open answers `grace_s` seconds, end the rest with an error."""
        assert self._task is not None
        self._server.should_exit = True
        self._server.config.timeout_graceful_shutdown = int(grace_s + _FLUSH_S) + 1
        await answers.drain(grace_s, UnavailableError("the gateway is shutting down; try again"))
        done, _ = await asyncio.wait([self._task], timeout=_FLUSH_S)
        if not done:
            # Clients that do not read, or that have sent half a request.
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await self._task
