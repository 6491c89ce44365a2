"""Workers for fault tests, here or in a process of their own, that are told what to do alike.

Time is each worker's own and passes faster when a test says so: a deadline is never waited for.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.handoff import BlocksReady, Key, ReservedGroup, SourceOutput
from baton.core.request import FinishReason, Request
from baton.core.settings import TransferSettings
from baton.transfer.base import Transport
from baton.transfer.inproc import InprocTransport
from baton.transfer.nixl import NixlTransport
from baton.v1 import common_pb2
from fakes.nixl_process import Child
from fakes.transfer import (
    DIGEST,
    FakeHost,
    FakeWorker,
    due_of,
    fill,
    hashes_of,
    make_arena,
    make_request,
)
from fakes.until import until

NUM_TOKENS = 10
BLOCKS = 3


class Clock:
    """Monotonic seconds, plus what has been skipped."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


class PoolHost(FakeHost):
    """Also checks what becomes readable: `served_wrong` names what was not its prompt's KV."""

    def __init__(self, worker: FakeWorker) -> None:
        super().__init__(worker.arena.num_blocks)
        self.arena = worker.arena
        self.served_wrong: list[Key] = []

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int = 0,
    ) -> tuple[ReservedGroup, ...] | None:
        # As `engine.targets` does. Cached blocks are of no tokens in particular.
        if num_tokens and (num_tokens != len(request.prompt) or list(num_blocks) != [BLOCKS]):
            raise InvalidRequestError("the offer is not for the tokens of this request")
        return super().reserve(key, request, num_tokens, hashes, num_blocks, growth_tokens)

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        super().adopt(key, outputs)
        self.check(key)

    def check(self, key: Key) -> None:
        """Look at an adopted request's blocks, as every step of a decode does."""
        blocks = list(self.adopted_blocks[key])
        expected = contents(self.arena.block_bytes, key[1])[: len(blocks)]
        if not np.array_equal(self.arena.view[blocks], expected):
            self.served_wrong.append(key)


def contents(block_bytes: int, number: int) -> np.ndarray:
    """What the blocks of handoff `number` hold."""
    arena = make_arena(BLOCKS, block_bytes)
    fill(arena, range(BLOCKS), number)
    held: np.ndarray = arena.view
    return held


def handoff_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


class End:
    """What a test may tell a worker, in plain values. Its handoffs' keys are (side, number)."""

    def __init__(self, worker: FakeWorker, clock: Clock) -> None:
        self.worker = worker
        self.host: PoolHost = worker.host  # type: ignore[assignment]
        self._clock = clock
        # Source blocks, pinned until the host hears `release`.
        self._pinned: dict[int, tuple[int, ...]] = {}
        self._stopped: set[Key] = set()

    def ref(self) -> bytes:
        data: bytes = self.worker.ref.SerializeToString()
        return data

    def advance(self, seconds: float) -> None:
        self._clock.skipped += seconds

    # --- source ---

    def compute(self, number: int) -> tuple[int, ...]:
        """Have a prompt's KV in blocks of its own."""
        taken = {block for blocks in self._pinned.values() for block in blocks}
        free = [b for b in range(self.worker.arena.num_blocks) if b not in taken][:BLOCKS]
        assert len(free) == BLOCKS, "no free blocks on the source"
        self._pinned[number] = tuple(free)
        self.worker.arena.view[free] = contents(self.worker.arena.block_bytes, number)
        return self._pinned[number]

    def cache(self, number: int) -> None:
        """Have a prompt's full blocks as prefix cache, which peers may fetch."""
        hashes = hashes_of(make_request(NUM_TOKENS, seed=number))
        self.host.cache.update(zip(hashes, self.compute(number), strict=False))

    def evict(self, number: int) -> None:
        self.host.cache.clear()
        del self._pinned[number]

    def start_source(self, number: int, target: bytes, attempt: int = 1) -> None:
        self.compute(number)
        ref = common_pb2.WorkerRef.FromString(target)
        request = make_request(NUM_TOKENS, seed=number)
        key = ("s", number)
        self.worker.handoffs.start_source(handoff_id(number), key, request, attempt, ref)

    def offer(self, number: int) -> None:
        request = make_request(NUM_TOKENS, seed=number)
        self.worker.handoffs.offer(due_of(("s", number), request))

    def ready(self, number: int, first: int, end: int, ended: bool = False) -> None:
        """Blocks `first` to `end` are final; with the last one comes the first token."""
        finish = FinishReason.STOP if ended else None
        outputs = {0: SourceOutput((7,), finish)} if end == BLOCKS else None
        ids = self._pinned[number][first:end]
        key = ("s", number)
        ready = BlocksReady(key, (first,), (ids,), end == BLOCKS)
        self.worker.handoffs.blocks_ready(ready, outputs)

    def compute_fails(self, number: int) -> None:
        self.worker.handoffs.fail_source(("s", number), HandoffError("out of blocks"))
        self._stopped.add(("s", number))

    def flip(self, side: str, number: int, index: int, byte: int, bit: int) -> None:
        """A stray write changes one bit of one of the handoff's blocks."""
        host = self.host
        blocks = self._pinned[number] if side == "s" else host.reserved[side, number]
        self.worker.arena.view[blocks[index], byte] ^= 1 << bit

    # --- target ---

    def start_target(self, number: int, source: bytes, attempt: int = 1) -> None:
        ref = common_pb2.WorkerRef.FromString(source)
        request = make_request(NUM_TOKENS, seed=number)
        key = ("t", number)
        self.worker.handoffs.start_target(handoff_id(number), key, request, attempt, ref)

    def fetch(self, number: int, source: bytes) -> None:
        """Ask a peer for the prompt's full blocks."""
        ref = common_pb2.WorkerRef.FromString(source)
        request = make_request(NUM_TOKENS, seed=number)
        self.worker.handoffs.fetch(("t", number), request, ref, 0, hashes_of(request))

    def fill_up(self) -> None:
        """Somebody else's sequences take every free block ..."""
        self.host.adopted_blocks["other", 0] = tuple(self.host.free)
        self.host.free.clear()

    def make_room(self) -> None:
        """... and end."""
        self.host.finish(("other", 0))
        self.worker.handoffs.room_freed()

    def num_queued(self) -> int:
        return len(self.worker.handoffs._effects.queue)

    def landed(self, number: int, count: int) -> bool:
        """The first `count` blocks have been written, right."""
        blocks = list(self.host.reserved.get(("t", number), ()))[:count]
        expected = contents(self.worker.arena.block_bytes, number)[:count]
        return len(blocks) == count and np.array_equal(self.worker.arena.view[blocks], expected)

    def tokens(self, number: int) -> tuple[int, ...]:
        """What an adopted sequence goes on from."""
        return self.host.adopted["t", number][0].tokens

    # --- both ---

    def cancel(self, side: str, number: int) -> None:
        self.worker.handoffs.cancel((side, number), "client gone")
        self._stopped.add((side, number))

    def peer_dead(self, name: str, epoch: int) -> None:
        """Whoever runs the peer says that it is gone."""
        self.worker.handoffs.peer_dead(name, epoch)

    def knows(self, what: str, key: Key) -> bool:
        """Whether the host has `key` in its books named `what`."""
        return key in getattr(self.host, what)

    def outcome(self, side: str, number: int) -> str | None:
        """`ok`, `stopped` by this worker itself, or why it failed; None while it goes on."""
        key = (side, number)
        if key in self.host.failures:
            return self.host.failures[key].message
        if key in self.host.handed:
            return "ok"
        return "stopped" if key in self._stopped else None

    def clean(self) -> str:
        """What is left of handoffs that have ended; empty when nothing is."""
        host, handoffs = self.host, self.worker.handoffs
        for number in [n for n in self._pinned if ("s", n) in host.released]:
            del self._pinned[number]
        owners = (host.adopted_blocks, host.reserved, host.quarantined)
        owned = sum(len(blocks) for owner in owners for blocks in owner.values())
        left = {
            "open": len(handoffs._entries.open),
            "reserved": len(host.reserved),
            "quarantined": handoffs.num_quarantined_blocks,
            "lost": host.num_blocks - len(host.free) - owned,
            "pinned": len(self._pinned),
            "served wrong": len(host.served_wrong),
        }
        return ", ".join(f"{count} {name}" for name, count in left.items() if count)

    def forget(self, side: str, number: int) -> None:
        """The request has ended: its blocks are looked at a last time, and freed."""
        host, key = self.host, (side, number)
        if key in host.adopted_blocks:
            host.check(key)
            host.finish(key)
            self.worker.handoffs.room_freed()
        for books in (host.adopted, host.handed, host.failures):
            books.pop(key, None)
        self._stopped.discard(key)
        if side == "s":
            if key in host.released:
                self._pinned.pop(number, None)
                host.released.remove(key)
            if key in host.grants:
                host.grants.remove(key)

    # --- many at once ---

    def start_sources(self, numbers: list[int], target: bytes) -> None:
        for number in numbers:
            self.start_source(number, target)
            self.offer(number)

    def start_targets(self, numbers: list[int], source: bytes) -> None:
        for number in numbers:
            self.start_target(number, source)

    def all_ended(self, side: str, numbers: list[int]) -> bool:
        return all(self.outcome(side, number) is not None for number in numbers)

    def judge(self, numbers: list[int]) -> dict[int, str]:
        """How each ended at its target, and that is then forgotten.

        `served` what was not its own, `refused`, or `recovered`: adopted, and right all the same.
        """
        verdicts = {}
        for number in numbers:
            key = ("t", number)
            adopted = self.host.adopted.get(key)
            self.forget("t", number)
            if key in self.host.served_wrong or (adopted and adopted[0].tokens != (7,)):
                verdicts[number] = "served"
            else:
                verdicts[number] = "recovered" if adopted else "refused"
        return verdicts

    def forget_all(self, side: str, numbers: list[int]) -> None:
        for number in numbers:
            self.forget(side, number)

    def ready_all(self, numbers: list[int]) -> None:
        for number in numbers:
            self.ready(number, 0, BLOCKS)

    def sample(self) -> dict[str, int]:
        """What this process holds at present."""
        handoffs = self.worker.handoffs
        statm = Path("/proc/self/statm").read_text().split()
        handles = [o for o in gc.get_objects() if str(type(o).__module__).startswith("nixl")]
        return {
            "rss_bytes": int(statm[1]) * os.sysconf("SC_PAGE_SIZE"),
            "threads": len(os.listdir("/proc/self/task")),
            "fds": len(os.listdir("/proc/self/fd")),
            "nixl_handles": len(handles),
            "remembered": len(handoffs._entries.all()),
            "open": len(handoffs._entries.open),
            "early": len(handoffs._parking),
            "quarantined_blocks": handoffs.num_quarantined_blocks,
            "free_blocks": len(self.host.free),
        }

    def block_bytes(self) -> int:
        return self.worker.arena.block_bytes

    async def ended(self, side: str, first: int, count: int) -> dict[int, str]:
        """Outcomes of a range of handoffs, once all have one."""
        numbers = range(first, first + count)
        await until(lambda: all(self.outcome(side, n) is not None for n in numbers), 20.0)
        return {n: self.outcome(side, n) or "" for n in numbers}


class LocalEnd:
    """A worker of this process."""

    def __init__(self, end: End) -> None:
        self.end = end

    async def ask(self, command: str, *args: object) -> Any:
        answer = getattr(self.end, command)(*args)
        return await answer if inspect.isawaitable(answer) else answer

    async def close(self) -> None:
        await self.end.worker.stop()


class RemoteEnd:
    """A worker in a process of its own."""

    def __init__(
        self,
        name: str,
        epoch: int,
        block_bytes: int,
        settings: dict[str, Any],
        digest: str = DIGEST,
    ) -> None:
        self.child = Child(end_main, name, epoch, block_bytes, settings, digest)

    async def start(self) -> RemoteEnd:
        assert await asyncio.to_thread(self.child.answer) == "ready"
        return self

    async def ask(self, command: str, *args: object) -> Any:
        return await asyncio.to_thread(self.child.ask, command, *args, timeout_s=60.0)

    async def close(self) -> None:
        await asyncio.to_thread(self.child.close)


async def local_end(
    name: str,
    epoch: int,
    *,
    block_bytes: int = 1024,
    num_blocks: int = 64,
    transport: Transport | None = None,
    settings: TransferSettings | None = None,
    digest: str = DIGEST,
) -> End:
    """Start a worker on this event loop; by default with the in-process transport."""
    clock = Clock()
    worker = FakeWorker(
        name,
        epoch=epoch,
        settings=settings,
        transport=transport or InprocTransport(f"{name}-{epoch}"),
        arena=make_arena(num_blocks, block_bytes),
        clock=clock,
        digest=digest,
    )
    worker.host = PoolHost(worker)
    await worker.start()
    return End(worker, clock)


def end_main(
    pipe: Connection,
    name: str,
    epoch: int,
    block_bytes: int,
    settings: dict[str, Any],
    digest: str,
) -> None:
    """A process with one NIXL worker. Every command is a method of `End`."""
    # Failures are what these tests are about, and there are thousands.
    logging.getLogger("baton").setLevel(logging.ERROR)
    asyncio.run(_serve(pipe, name, epoch, block_bytes, TransferSettings(**settings), digest))


async def _serve(
    pipe: Connection,
    name: str,
    epoch: int,
    block_bytes: int,
    settings: TransferSettings,
    digest: str,
) -> None:
    transport = NixlTransport(f"{name}-{epoch}", settings)
    end = await local_end(
        name,
        epoch,
        block_bytes=block_bytes,
        num_blocks=512,
        transport=transport,
        settings=settings,
        digest=digest,
    )
    pipe.send("ready")
    here = LocalEnd(end)
    while True:
        command, *args = await asyncio.to_thread(pipe.recv)
        pipe.send(await here.ask(command, *args))
