"""A source that reaches its target through a relay, on NIXL between processes or inproc."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from baton.core.settings import TransferSettings
from baton.v1 import common_pb2
from fakes.handoff_ends import BLOCKS, LocalEnd, RemoteEnd, local_end
from fakes.message_relay import MessageRelay
from fakes.transfer import DIGEST

NIXL = {"ucx_tls": "tcp,self"}
BLOCK_BYTES = 16 * 1024
EndOf = LocalEnd | RemoteEnd
numbers = itertools.count(1)


@dataclass
class Pair:
    """A source that reaches its target through a relay."""

    source: EndOf
    target: EndOf
    relay: MessageRelay
    source_ref: bytes
    target_ref: bytes

    async def begin(self, number: int) -> None:
        await self.target.ask("start_target", number, self.source_ref)
        await self.source.ask("start_source", number, self.target_ref)

    async def offer(self, number: int) -> None:
        await self.begin(number)
        await self.source.ask("offer", number)

    async def grant(self, number: int) -> None:
        await self.offer(number)
        await self.until(self.source, "knows", "grants", ("s", number))

    async def until(self, end: EndOf, command: str, *args: object) -> None:
        for _ in range(6000):
            if await end.ask(command, *args):
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"never: {command} {args}")

    async def run(self, number: int) -> None:
        await self.offer(number)
        await self.source.ask("ready", number, 0, BLOCKS)

    async def goes_through(self) -> None:
        """Another handoff is not disturbed."""
        number = next(numbers)
        await self.run(number)
        assert await self.source.ask("ended", "s", number, 1) == {number: "ok"}
        assert await self.target.ask("ended", "t", number, 1) == {number: "ok"}
        await self.forget(number)

    async def forget(self, number: int) -> None:
        await self.target.ask("forget", "t", number)
        await self.source.ask("forget", "s", number)

    async def clean(self) -> None:
        """Nothing is left at either end, sooner or later; and nothing wrong was ever readable."""
        for end in (self.source, self.target):
            for _ in range(2000):
                left = await end.ask("clean")
                if not left:
                    break
                await asyncio.sleep(0.005)
            assert not left


async def start_end(
    transport: str, name: str, epoch: int, *, digest: str = DIGEST, **settings: Any
) -> EndOf:
    """A worker: in this process with `inproc`, else in one of its own."""
    if transport == "inproc":
        chosen = TransferSettings(**settings)
        return LocalEnd(await local_end(f"{name}-inproc", epoch, settings=chosen, digest=digest))
    end = RemoteEnd(f"{name}-nixl", epoch, BLOCK_BYTES, NIXL | settings, digest)
    return await end.start()


async def port_of(end: EndOf) -> int:
    ref = common_pb2.WorkerRef.FromString(await end.ask("ref"))
    return int(ref.address.rpartition(":")[2])


async def ref_behind(end: EndOf, relay: MessageRelay) -> bytes:
    """The worker's reference, with the relay's address."""
    ref = common_pb2.WorkerRef.FromString(await end.ask("ref"))
    ref.address = f"127.0.0.1:{relay.port}"
    data: bytes = ref.SerializeToString()
    return data


@contextlib.asynccontextmanager
async def pair_of(transport: str, **settings: Any) -> AsyncIterator[Pair]:
    """Two workers and the relay between them."""
    source = await start_end(transport, "source", 7, **settings)
    target = await start_end(transport, "target", 9, **settings)
    relay = await MessageRelay(await port_of(target)).start()
    pair = Pair(source, target, relay, await source.ask("ref"), await ref_behind(target, relay))
    try:
        yield pair
    finally:
        await relay.stop()
        await pair.source.close()
        await pair.target.close()


async def says(end: EndOf, side: str, number: int, expected: str) -> None:
    outcome = (await end.ask("ended", side, number, 1))[number]
    assert re.search(expected, outcome), outcome
