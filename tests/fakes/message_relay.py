"""A gRPC relay between two workers that loses, keeps, repeats, reorders and edits their messages.

A source that is given the relay's address dials it in place of its target. Hellos pass untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from baton.telemetry import rpc
from baton.v1 import transfer_pb2 as pb
from baton.v1 import transfer_pb2_grpc
from fakes.transfer import TOKEN

Message = pb.HandoffMessage
Outbox = asyncio.Queue[Message]

HOW = ("drop", "delay", "reorder", "duplicate")


@dataclass(eq=False)
class Fault:
    """What happens to messages of one kind (of one handoff, if it is named), `count` times.

    `delay` keeps a message until `release`; `reorder` until the next one of its direction has
    passed; `edit` changes it on its way; `duplicate` sends it twice.
    """

    kind: str
    how: str
    handoff_id: bytes | None = None
    count: int = 1
    edit: Callable[[Message], None] | None = None
    # Messages that met this fault, as they came.
    hits: list[Message] = field(default_factory=list)

    def takes(self, message: Message) -> bool:
        return (
            len(self.hits) < self.count
            and message.WhichOneof("body") == self.kind
            and self.handoff_id in (None, message.handoff_id)
        )


class MessageRelay:
    """Listens on `port` and relays to the worker at `target_port`; everything on one loop."""

    def __init__(self, target_port: int, token: str = TOKEN) -> None:
        self._target_port = target_port
        self._token = token
        self._faults: list[Fault] = []
        # Kept messages, and where they were to go.
        self._held: list[tuple[Outbox, Message]] = []
        self._overtaken: dict[int, list[Message]] = {}
        self.seen: Counter[str] = Counter()

    async def start(self) -> MessageRelay:
        relay = self

        class Servicer(transfer_pb2_grpc.TransferServiceServicer):
            async def Handoff(
                self, request_iterator: AsyncIterator[pb.HandoffRequest], context: Any
            ) -> None:
                await relay._relay(request_iterator, context)

        self._server: grpc.aio.Server = rpc.server(self._token)
        self.port = rpc.listen(self._server, "127.0.0.1", 0)
        add = transfer_pb2_grpc.add_TransferServiceServicer_to_server
        add(Servicer(), self._server)  # type: ignore[no-untyped-call]
        await self._server.start()
        return self

    async def stop(self) -> None:
        await self._server.stop(0)

    def retarget(self, port: int) -> None:
        """Another process has taken the place of the worker behind this address."""
        self._target_port = port

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults; what is held goes on its way."""
        self._faults.clear()
        self.release()

    def release(self) -> int:
        """Let held and overtaken messages go; how many there were."""
        held, self._held = self._held, []
        self._overtaken.clear()
        for outbox, message in held:
            outbox.put_nowait(message)
        return len(held)

    async def _relay(
        self,
        requests: AsyncIterator[pb.HandoffRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        async with rpc.channel(f"127.0.0.1:{self._target_port}", self._token) as channel:
            stub = transfer_pb2_grpc.TransferServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Handoff()
            there: Outbox = asyncio.Queue()
            back: Outbox = asyncio.Queue()

            async def forward() -> None:
                async for request in requests:
                    self._pass(request.message, there)

            async def answer() -> None:
                async for response in call:
                    self._pass(response.message, back)

            async def write_there() -> None:
                while True:
                    await call.write(pb.HandoffRequest(message=await there.get()))

            async def write_back() -> None:
                while True:
                    await context.write(pb.HandoffResponse(message=await back.get()))

            tasks = [asyncio.create_task(w()) for w in (forward, answer, write_there, write_back)]
            try:
                # Whichever side ends first ends the other.
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                call.cancel()
                for task in tasks:
                    task.cancel()
                self._held = [(box, m) for box, m in self._held if box not in (there, back)]
                for box in (there, back):
                    self._overtaken.pop(id(box), None)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _pass(self, message: Message, outbox: Outbox) -> None:
        self.seen[message.WhichOneof("body") or ""] += 1
        fault = next((f for f in self._faults if f.takes(message)), None)
        if fault is None:
            outbox.put_nowait(message)
            # Those that this one has overtaken follow it.
            for late in self._overtaken.pop(id(outbox), ()):
                self._held.remove((outbox, late))
                outbox.put_nowait(late)
            return
        copy = Message()
        copy.CopyFrom(message)
        fault.hits.append(copy)
        match fault.how:
            case "drop":
                pass
            case "delay":
                self._held.append((outbox, message))
            case "reorder":
                self._held.append((outbox, message))
                self._overtaken.setdefault(id(outbox), []).append(message)
            case "duplicate":
                outbox.put_nowait(message)
                outbox.put_nowait(copy)
            case "edit":
                assert fault.edit is not None, "an edit says what to change"
                fault.edit(message)
                outbox.put_nowait(message)
            case other:
                raise AssertionError(f"no such fault: {other}")
