"""A TCP relay that can be cut, held or closed: what a network does to a connection."""

from __future__ import annotations

import asyncio
from typing import Self


class Link:
    """Listens on a port of its own and relays to `target`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        # Ever made.
        self.num_connections = 0
        # What the target says vanishes while this is set.
        self.swallow_answers = False

    async def open(self, port: int = 0) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Refuse connections from now on, and break those there are."""
        if self._server is not None:
            self._server.close()
        # One that was accepted just now has no task yet.
        await asyncio.sleep(0)
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Aborted transports close their sockets a turn later.
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Break all connections; new ones are welcome."""
        for writer in list(self._writers):
            writer.transport.abort()

    def retarget(self, port: int) -> None:
        """Break all connections; new ones lead elsewhere."""
        self._target_port = port
        self.cut()

    def hold(self) -> None:
        """Keep connections open but let nothing through."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.num_connections += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        sides = {writer}
        self._writers.add(writer)
        try:
            peer_reader, peer_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            sides.add(peer_writer)
            self._writers.add(peer_writer)
            await asyncio.gather(
                self._relay(reader, peer_writer), self._relay(peer_reader, writer, answers=True)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= sides
            for side in sides:
                side.transport.abort()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            if not (answers and self.swallow_answers):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError
