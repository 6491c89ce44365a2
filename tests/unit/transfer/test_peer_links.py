"""Links between workers over real streams: what ends them, and that whoever waits hears so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from baton.transfer import links
from baton.transfer.hello import Greeter
from baton.transfer.inproc import InprocTransport
from baton.transfer.links import Link, Links, Message
from baton.v1 import common_pb2, transfer_pb2
from baton.wire.streams.client import dial
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
from baton.wire.streams.status import Code, StreamError
from fakes.transfer import DIGEST, GROUP, TOKEN, make_arena


class End:
    """A worker's links, and a journal of what they say."""

    def __init__(self, name: str) -> None:
        self.news: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        transport, arena = InprocTransport(name), make_arena(1)
        transport.register([arena])
        self.server = StreamServer("127.0.0.1", 0, TOKEN)
        self.ref = common_pb2.WorkerRef(worker_id=name, epoch=1, address=self.server.address)
        self.greeter = Greeter(self.ref, DIGEST, [GROUP], [arena], transport)
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe
        self.links = Links(self.greeter, TOKEN, loop, post, post, self)
        self.server.add(HANDOFF, self.links.serve)

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(30):
            return await self.news.get()

    # LinkEvents
    def link_up(self, link: Link) -> None:
        self.news.put_nowait(("up", link))

    def link_message(self, link: Link, message: Message) -> None:
        self.news.put_nowait(("message", message))

    def link_down(self, link: Link, reason: str) -> None:
        self.news.put_nowait(("down", reason))

    def dial_failed(self, peer: common_pb2.WorkerRef, reason: str) -> None:
        self.news.put_nowait(("failed", reason))


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    dialler, acceptor = End("dialler"), End("acceptor")
    await acceptor.server.start()
    try:
        yield dialler, acceptor
    finally:
        dialler.links.close()
        await asyncio.sleep(0)
        for end in (dialler, acceptor):
            await end.server.stop(0)


@pytest.mark.parametrize("side", ["dialler", "acceptor"])
async def test_a_stream_ends_when_too_much_waits_to_be_read(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_UNSENT", 1 << 20)
    async with ends() as (dialler, acceptor):
        dialler.links.dial(acceptor.ref)
        name, link = await dialler.next()
        other_name, other_link = await acceptor.next()
        assert name == other_name == "up"
        one, its_link = (dialler, link) if side == "dialler" else (acceptor, other_link)
        # More than the system's own buffers take.
        for _ in range(40):
            its_link.send(Message(handoff_id=bytes(1 << 20)))
        while (news := await one.next())[0] == "message":
            """What came before is of no matter."""
        assert news == ("down", "the peer reads too slowly")
        # It comes back: what was lost is said again on the new stream.
        assert (await one.next())[0] == "up"


async def test_a_dial_that_fails_in_an_unforeseen_way_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(_: Message) -> None:
        raise ZeroDivisionError("this is a bug")

    async with ends() as (dialler, acceptor):
        monkeypatch.setattr(dialler.greeter, "check", check)
        dialler.links.dial(acceptor.ref)
        name, reason = await dialler.next()
        assert name == "failed" and "this is a bug" in reason


async def test_garbage_after_hello_ends_the_stream_as_such() -> None:
    async with ends() as (dialler, acceptor):
        async with dial(acceptor.ref.address, TOKEN, HANDOFF) as caller:
            caller.send(transfer_pb2.HandoffRequest(message=dialler.greeter.message))
            assert await caller.read() is not None
            # Its bytes are those of a HandoffRequest whose message cannot be parsed.
            caller.send(BytesValue(value=b"\xff\xff"))
            with pytest.raises(StreamError) as caught:
                await caller.read()
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert (await acceptor.next())[0] == "up"
        name, reason = await acceptor.next()
        assert name == "down" and "cannot be parsed" in reason
