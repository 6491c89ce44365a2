"""Two worker processes without engines, for measuring handoffs alone.

Each end has what a worker has around its handoffs: streams on the asyncio thread, a loop
thread that waits as `worker.engine_loop` does when its engine is idle, NIXL with its sender thread.
Which blocks a handoff takes is given, so that no engine's time is in the figures.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import uvloop
from grpc_echo import GrpcEcho

from baton.core.errors import BatonError
from baton.core.gc_pauses import settle_gc
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, ReservedGroup, SourceOutput
from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.request import Request, SamplingParams
from baton.core.settings import TransferSettings
from baton.transfer.base import HandoffTiming
from baton.transfer.handoffs import Handoffs
from baton.transfer.nixl import NixlTransport
from baton.v1 import common_pb2
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
from baton.worker.inbox import Inbox

TOKEN = "bench"
DIGEST = "0" * 32
HASH_BYTES = 16
# Longest sleep of an idle loop, as `worker.engine_loop` has it.
IDLE_S = 0.5

OUTPUTS = {0: SourceOutput((7,), None)}
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Plan:
    """What one handoff moves: `local[i]` to `remote[i]`; or nothing, as the target holds it all."""

    local: tuple[int, ...]
    remote: tuple[int, ...]
    skip: bool = False

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return tuple(i.to_bytes(HASH_BYTES, "big") for i in range(len(self.local)))


def group_of(block_bytes: int) -> GroupSpec:
    """A group with blocks of this many bytes: 4 layers, 2 heads, 16 tokens of 16-bit elements."""
    dim = block_bytes // (4 * 2 * 16 * 2 * 2)
    return GroupSpec("full", 4, 2, dim, dim, 16, "bfloat16")


def make_request(number: int) -> Request:
    return Request(
        request_id=str(number),
        model="m",
        prompt=(1,),
        sampling=SamplingParams(max_tokens=8),
        seed=0,
        deadline=time.monotonic() + 600,
        outputs={0: ()},
    )


class BenchHost:
    """A worker's engine as its handoffs see it; takes every offer."""

    def __init__(self) -> None:
        # Of the handoffs to come.
        self.plan = Plan((), ())
        # When a handoff was accepted, or why it was not.
        self.ended: queue.SimpleQueue[BatonError | float] = queue.SimpleQueue()

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int,
    ) -> tuple[ReservedGroup, ...] | None:
        remote = self.plan.remote
        skip = frozenset(range(len(remote))) if self.plan.skip else frozenset()
        return (ReservedGroup(remote, (1,) * len(remote), skip),)

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, SourceOutput],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        """What the tokens say is the engine's business."""

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None: ...

    def unreserve(self, key: Key, *, quarantine: bool) -> None: ...

    def lift_quarantine(self, key: Key) -> None: ...

    def granted(self, key: Key) -> None: ...

    def release(self, key: Key) -> None: ...

    def stop_move(self, key: Key) -> MoveStopped | None:
        return None

    def new_key(self) -> Key:
        raise AssertionError("nobody fetches")

    def lend(self, key: Key, group: int, hashes: Sequence[bytes]) -> tuple[int, ...]:
        return ()

    def in_doubt(self, key: Key, error: BatonError) -> None:
        self.failed(key, error)

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        self.ended.put(time.perf_counter())

    def withdrawn(self, key: Key) -> None: ...

    def failed(self, key: Key, error: BatonError) -> None:
        self.ended.put(error)


class Loop(threading.Thread):
    """As `worker.engine_loop.EngineLoop` while its engine has nothing to do."""

    def __init__(self) -> None:
        super().__init__(name="bench-loop", daemon=True)
        self._inbox = Inbox(self._serve)
        self._wakes_at = 0.0
        self.handoffs: Handoffs | None = None
        self._stopping = False

    def post(self, work: Callable[[], None]) -> None:
        self._inbox.post(work)

    def do(self, work: Callable[[], None]) -> None:
        self._inbox.do(work)

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` on the loop's thread, and wait until it has run."""
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        self.post(run)
        if not done.wait(30):
            raise RuntimeError("the loop thread does not answer")

    def stop(self) -> None:
        def end() -> None:
            self._stopping = True

        self.call(end)

    def run(self) -> None:
        assert self.handoffs is not None, "attached before the start"
        while not self._stopping:
            self._wakes_at = self._due_at()
            self._inbox.wait(max(0.0, self._wakes_at - time.monotonic()))
            self._work_off()
            self.handoffs.tick()

    def _serve(self) -> None:
        """On the thread that brought the work, while the loop's waits."""
        self._work_off()
        assert self.handoffs is not None, "attached before the start"
        if self.handoffs.holds_up or self._due_at() < self._wakes_at:
            self._inbox.call()

    def _work_off(self) -> None:
        while (work := self._inbox.pop()) is not None:
            work()

    def _due_at(self) -> float:
        assert self.handoffs is not None, "attached before the start"
        due, idle = self.handoffs.next_deadline(), time.monotonic() + IDLE_S
        return idle if due is None else min(idle, due)


class End:
    """One worker. Started and stopped on the asyncio thread."""

    def __init__(
        self, name: str, epoch: int, arena: Arena, group: GroupSpec, settings: TransferSettings
    ) -> None:
        self.name = name
        self._epoch = epoch
        self.arena = arena
        self._group = group
        self._settings = settings
        self.host = BenchHost()
        self.loop = Loop()
        self.transport = NixlTransport(f"bench-{name}", settings)

    async def start(self) -> None:
        self.transport.register([self.arena])
        self._server = StreamServer("127.0.0.1", 0, TOKEN)
        self.echo = GrpcEcho()
        self.ref = common_pb2.WorkerRef(
            worker_id=self.name, epoch=self._epoch, address=self._server.address
        )
        self.handoffs = self.loop.handoffs = Handoffs(
            self.ref,
            DIGEST,
            self.transport,
            [self.arena],
            [self._group],
            self.host,
            self.loop.post,
            asyncio.get_running_loop(),
            TOKEN,
            self._settings,
            fetch_host=self.host,
            do=self.loop.do,
        )
        self._server.add(HANDOFF, self.handoffs.serve)
        await self._server.start()
        await self.echo.start()
        self.loop.start()
        settle_gc()

    async def stop(self) -> None:
        await asyncio.to_thread(self.loop.stop)
        self.handoffs.close()
        await self._server.stop(0)
        await self.echo.stop()
        self.transport.close()

    def start_target(self, number: int, plan: Plan, source: common_pb2.WorkerRef) -> None:
        def start() -> None:
            self.host.plan = plan
            request = make_request(number)
            key = (self.name, number)
            self.handoffs.start_target(number.to_bytes(16, "big"), key, request, 1, source)

        self.loop.call(start)

    def start_source(self, number: int, plan: Plan, target: common_pb2.WorkerRef) -> None:
        def start() -> None:
            request = make_request(number)
            key = (self.name, number)
            self.handoffs.start_source(number.to_bytes(16, "big"), key, request, 1, target)

        self.loop.call(start)

    def hand_over(self, numbers: Sequence[int], plan: Plan) -> float:
        """Seconds from the first Offer to the last Accepted, of handoffs that both ends expect."""
        count = len(plan.local)
        num_tokens = count * self._group.block_size
        keys = [(self.name, number) for number in numbers]
        dues = [OfferDue(key, num_tokens, (plan.hashes,), (count,)) for key in keys]
        began = 0.0

        def offer() -> None:
            nonlocal began
            began = time.perf_counter()
            for due in dues:
                self.handoffs.offer(due)
                self.handoffs.blocks_ready(BlocksReady(due.key, (0,), (plan.local,), True), OUTPUTS)

        self.loop.post(offer)
        end = 0.0
        for _ in dues:
            ended = self.host.ended.get(timeout=120)
            if isinstance(ended, BatonError):
                raise ended
            end = max(end, ended)
        return end - began


def make_arena(num_blocks: int, block_bytes: int) -> Arena:
    """Host memory that the kernel has really handed out."""
    view = np.full((num_blocks, block_bytes), 1, np.uint8)
    held = whole_slice(group_of(block_bytes))
    return Arena(0, view.ctypes.data, num_blocks, block_bytes, "DRAM", 0, view, held)


# --- the other process ---


class Target:
    """A target in a process of its own."""

    def __init__(self, num_blocks: int, block_bytes: int, settings: dict[str, Any]) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(
            target=_target_main, args=(theirs, num_blocks, block_bytes, settings), daemon=True
        )
        self._process.start()
        theirs.close()
        ref, self.metadata, self.address, self.echo_address = self._answer()
        self.ref = common_pb2.WorkerRef.FromString(ref)

    def _answer(self) -> Any:
        if not self._pipe.poll(60):
            raise RuntimeError("the target's process does not answer")
        return self._pipe.recv()

    def start_target(self, number: int, plan: Plan, source: common_pb2.WorkerRef) -> None:
        """Have it expect a handoff."""
        self._pipe.send((number, plan, source.SerializeToString()))
        self._answer()

    def close(self) -> None:
        self._process.terminate()
        self._process.join(10)
        self._pipe.close()


def _target_main(
    pipe: Connection, num_blocks: int, block_bytes: int, settings: dict[str, Any]
) -> None:
    uvloop.run(_serve_target(pipe, num_blocks, block_bytes, TransferSettings(**settings)))


async def _serve_target(
    pipe: Connection, num_blocks: int, block_bytes: int, settings: TransferSettings
) -> None:
    arena = make_arena(num_blocks, block_bytes)
    end = End("target", 2, arena, group_of(block_bytes), settings)
    await end.start()
    metadata = end.transport.endpoint_metadata()
    pipe.send((end.ref.SerializeToString(), metadata, arena.address, end.echo.address))
    while True:
        number, plan, source = await asyncio.to_thread(pipe.recv)
        end.start_target(number, plan, common_pb2.WorkerRef.FromString(source))
        pipe.send(None)
