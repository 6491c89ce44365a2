"""A gateway's end of a session with a worker's `Sessions`, without a connection between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from baton.core.handoff import Key
from baton.core.settings import WorkerSettings
from baton.engine.outputs import TokenRow
from baton.v1 import common_pb2, session_pb2
from baton.wire.streams.status import Code, StreamError
from baton.worker.sessions import Sessions

ME = common_pb2.WorkerRef(worker_id="w", epoch=5, address="127.0.0.1:1")
LEASE = common_pb2.WorkerLease(worker=ME, protocol_min=1, protocol_max=1)
Row = tuple[int, int, int, int]  # slot, choice, position, token


class GatewaysEnd:
    """A gateway's stream, as `Sessions.serve` sees it. It takes no more while `gate` is closed."""

    def __init__(self, sessions: Sessions, session_id: str = "s", **opening: Any) -> None:
        self.inbox: asyncio.Queue[session_pb2.SessionRequest | StreamError | None] = asyncio.Queue()
        self.responses: list[session_pb2.SessionResponse] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()
        self.ended: StreamError | None = None
        opening = {"worker_epoch": 5, "protocol": 1} | opening
        self.say(open=session_pb2.Open(session_id=session_id, **opening))
        self.task = asyncio.create_task(self._serve(sessions))

    async def _serve(self, sessions: Sessions) -> None:
        try:
            await sessions.serve(cast(Any, self))
        except StreamError as error:
            self.ended = error
        finally:
            self.changed.set()

    # Stream
    async def read(self) -> session_pb2.SessionRequest | None:
        message = await self.inbox.get()
        if isinstance(message, StreamError):
            raise message
        return message

    async def __aiter__(self) -> AsyncIterator[session_pb2.SessionRequest]:
        while (request := await self.read()) is not None:
            yield request

    async def writable(self) -> None:
        await self.gate.wait()

    def send(self, response: session_pb2.SessionResponse) -> None:
        self.responses.append(response)
        self.changed.set()

    def end(self, code: Code, details: str) -> None:
        self.inbox.put_nowait(StreamError(code, details))

    # the test's side
    def say(self, **message: Any) -> None:
        self.inbox.put_nowait(session_pb2.SessionRequest(**message))

    def submit(self, *slots: int) -> None:
        for slot in slots:
            self.say(submits=[session_pb2.Submit(slot=slot, request_id=f"r{slot}")])

    @property
    def opened(self) -> session_pb2.Opened:
        return self.responses[0].opened

    @property
    def frames(self) -> list[session_pb2.Frame]:
        return [response.frame for response in self.responses[1:]]

    @property
    def newest_slot(self) -> int | None:
        """As the newest load has it."""
        loads = [frame.load for frame in self.frames if frame.HasField("load")]
        return loads[-1].newest_slot if loads else None

    @property
    def rows(self) -> list[Row]:
        return [
            row
            for f in self.frames
            for row in zip(f.slot, f.choice, f.position, f.token, strict=True)
        ]

    async def until(self, condition: Any) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def lose(self) -> None:
        """The connection breaks: the handler is cancelled."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Bench:
    """Sessions and what they passed on."""

    def __init__(self, grace_s: float = 60.0) -> None:
        self.submitted: list[Key] = []
        self.cancelled: list[Key] = []
        self.migrated: list[tuple[Key, int]] = []
        self.prefetched: list[str] = []
        self.news = asyncio.Event()
        self.sessions = Sessions(
            ME,
            lambda: LEASE,
            lambda key, _submit: self._note(self.submitted, key),
            lambda key: self._note(self.cancelled, key),
            lambda key, attempt, _migrate: self._note(self.migrated, (key, attempt)),
            lambda prefetch: self._note(self.prefetched, prefetch.model),
            WorkerSettings(session_grace_s=grace_s),
        )

    def _note(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self.news.set()

    async def until(self, condition: Any) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()

    async def open(self, *slots: int, session_id: str = "s", **opening: Any) -> GatewaysEnd:
        stream = GatewaysEnd(self.sessions, session_id, **opening)
        stream.submit(*slots)
        await stream.until(lambda: stream.responses)
        await self.until(lambda: {(session_id, s) for s in slots} <= set(self.submitted))
        return stream

    def tokens(self, *positions: int, slot: int = 1, session_id: str = "s") -> None:
        rows = [TokenRow((session_id, slot), 0, p, 100 + p) for p in positions]
        self.sessions.publish(rows, [], None)


async def close(bench: Bench, *streams: GatewaysEnd) -> None:
    for stream in streams:
        await stream.lose()
    bench.sessions.close()
