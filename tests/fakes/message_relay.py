"""A relay between two workers that loses, keeps, repeats, reorders and edits their messages.

A source that is given the relay's address dials it in place of its target. Hellos pass untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from baton.transfer.links import AcceptedStream
from baton.v1 import transfer_pb2 as pb
from baton.wire.streams.client import dial
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
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
        self._server = StreamServer("127.0.0.1", 0, self._token)
        self.port = self._server.port
        self._server.add(HANDOFF, self._relay)
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

    async def _relay(self, caller: AcceptedStream) -> None:
        async with dial(f"127.0.0.1:{self._target_port}", self._token, HANDOFF) as callee:
            there: Outbox = asyncio.Queue()
            back: Outbox = asyncio.Queue()

            async def forward() -> None:
                async for request in caller:
                    self._pass(request.message, there)

            async def answer() -> None:
                async for response in callee:
                    self._pass(response.message, back)

            async def write_there() -> None:
                while True:
                    callee.send(pb.HandoffRequest(message=await there.get()))

            async def write_back() -> None:
                while True:
                    caller.send(pb.HandoffResponse(message=await back.get()))

            tasks = [asyncio.create_task(w()) for w in (forward, answer, write_there, write_back)]
            try:
                # Whichever side ends first ends the other.
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
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
