"""The embedded store on loopback, under a test's control."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc

from baton.core.clock import Clock, monotonic
from baton.store.base import Store
from baton.store.embedded import EmbeddedStore
from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from fakes.free_port import free_port

TOKEN = "deployment-token"


class EmbeddedBackend:
    def __init__(
        self,
        max_watch_events: int = 10_000,
        clock: Clock = monotonic,
        token: str = TOKEN,
        file: Path | None = None,
    ) -> None:
        self.port = free_port()
        self._token = token
        self._file = file
        self._clock = clock
        self._max_watch_events = max_watch_events
        self.service = EmbeddedStoreServer(clock, max_watch_events)
        self._server: grpc.aio.Server | None = None
        self._frozen: socket.socket | None = None
        self._clients: list[EmbeddedStore] = []

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def open(self, prefix: str = "p", timeout_s: float = 5.0, token: str = "") -> Store:
        """`token`: the server's unless it is given."""
        client = EmbeddedStore(self.url, token or self._token, prefix, timeout_s)
        self._clients.append(client)
        return client

    async def start(self) -> None:
        self.service = EmbeddedStoreServer(self._clock, self._max_watch_events, self._file)
        self._server = rpc.server(self._token)
        self.service.add_to_server(self._server)
        self.port = rpc.listen(self._server, "127.0.0.1", self.port)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self.service.close()
            self._server = None

    async def freeze(self) -> None:
        await self.stop()
        self._frozen = socket.create_server(("127.0.0.1", self.port))

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()
        if self._frozen is not None:
            self._frozen.close()
