"""Both ends of handoffs for tests: hosts with real block accounting, requests, and workers."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton.core.block_hash import extend_hashes, root_hash
from baton.core.errors import BatonError, InvalidRequestError
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, ReservedGroup, SourceOutput
from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.request import Request, SamplingParams
from baton.core.settings import TransferSettings
from baton.transfer.base import HandoffTiming, PeerShard, Transport
from baton.transfer.handoffs import Handoffs
from baton.transfer.inproc import InprocTransport
from baton.transfer.wire_codec import wire_codecs
from baton.v1 import common_pb2
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer

BLOCK_SIZE = 4
TOKEN = "test-token"
_numbers = itertools.count()
DIGEST = "0" * 32
GROUP = GroupSpec(
    "full", num_layers=2, num_kv_heads=2, k_dim=8, v_dim=8, block_size=4, dtype="float32"
)


def make_request(
    num_tokens: int = 10, *, choices: int = 1, seed: int = 0, deadline: float = 1e9
) -> Request:
    """A prompt of `num_tokens` tokens that differs with the seed from its first token on."""
    return Request(
        request_id=f"r{seed}",
        model="m",
        prompt=tuple(1000 * (seed + 1) + i for i in range(num_tokens)),
        sampling=SamplingParams(max_tokens=8),
        seed=seed,
        deadline=deadline,
        outputs=dict.fromkeys(range(choices), ()),
    )


def hashes_of(request: Request) -> list[bytes]:
    return extend_hashes(root_hash(DIGEST), request.prompt, BLOCK_SIZE)


def due_of(key: Key, request: Request) -> OfferDue:
    """What an engine says when it schedules the request's prompt."""
    count = GROUP.num_blocks(len(request.prompt))
    return OfferDue(key, len(request.prompt), (tuple(hashes_of(request)),), (count,))


def make_arena(num_blocks: int = 16, block_bytes: int = GROUP.block_bytes) -> Arena:
    """Host memory for one group, zeroed."""
    view = np.zeros((num_blocks, block_bytes), np.uint8)
    return Arena(0, view.ctypes.data, num_blocks, block_bytes, "DRAM", 0, view, whole_slice(GROUP))


def fill(arena: Arena, block_ids: Sequence[int], seed: int) -> None:
    """Give blocks contents that depend on the seed."""
    rng = np.random.default_rng(seed)
    shape = (len(block_ids), arena.block_bytes)
    arena.view[list(block_ids)] = rng.integers(1, 256, shape, dtype=np.uint8)


@dataclass
class FakeHost:
    """A worker's engine as its handoffs see it: a pool of one group's blocks, and a journal.

    Asserts what the reuse rule promises: a block belongs to one owner at a time.
    """

    num_blocks: int = 16
    free: set[int] = field(default_factory=set)
    generation: dict[int, int] = field(default_factory=dict)
    reserved: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    quarantined: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    adopted: dict[Key, Mapping[int, SourceOutput]] = field(default_factory=dict)
    adopted_blocks: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    handed: dict[Key, HandoffTiming] = field(default_factory=dict)
    failures: dict[Key, BatonError] = field(default_factory=dict)
    released: list[Key] = field(default_factory=list)
    grants: list[Key] = field(default_factory=list)
    # Moves that stop at once when they are asked to, and those whose end nobody can tell.
    stops: dict[Key, MoveStopped] = field(default_factory=dict)
    doubts: list[Key] = field(default_factory=list)
    # Readable blocks by hash, as a prefix cache has them.
    cache: dict[bytes, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.free = set(range(self.num_blocks))

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int = 0,
    ) -> tuple[ReservedGroup, ...] | None:
        wanted = hashes_of(request)
        # A peer that was asked for blocks may hold the first of them only.
        if list(hashes[0]) != (wanted if num_tokens else wanted[: len(hashes[0])]):
            raise InvalidRequestError("the offered hashes are not those of the prompt")
        if num_blocks[0] > self.num_blocks:
            raise InvalidRequestError("the prompt can never fit")
        held = {i: self.cache[h] for i, h in enumerate(hashes[0]) if h in self.cache}
        if num_blocks[0] - len(held) > len(self.free):
            return None
        ids = tuple(held[i] if i in held else self._take() for i in range(num_blocks[0]))
        self.reserved[key] = tuple(b for i, b in enumerate(ids) if i not in held)
        generations = tuple(self.generation.get(b, 0) for b in ids)
        return (ReservedGroup(ids, generations, frozenset(held)),)

    def _take(self) -> int:
        block = min(self.free)
        self.free.discard(block)
        self.generation[block] = self.generation.get(block, 0) + 1
        return block

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, SourceOutput],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        """What the tokens say is the engine's business."""
        assert key in self.reserved

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        assert key not in self.adopted, "adopted twice"
        self.adopted[key] = outputs
        self.adopted_blocks[key] = self.reserved.pop(key)

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        blocks = self.reserved.pop(key)
        if quarantine:
            assert key not in self.quarantined
            self.quarantined[key] = blocks
        else:
            self._give(blocks)

    def lift_quarantine(self, key: Key) -> None:
        self._give(self.quarantined.pop(key))

    def finish(self, key: Key) -> None:
        """An adopted request ends: its blocks are free."""
        self._give(self.adopted_blocks.pop(key))

    def _give(self, blocks: Sequence[int]) -> None:
        assert not self.free.intersection(blocks), "freed twice"
        self.free.update(blocks)

    def new_key(self) -> Key:
        return ("", next(self.numbers))

    def lend(self, key: Key, group: int, hashes: Sequence[bytes]) -> tuple[int, ...]:
        """As many of the first as are cached."""
        held = itertools.takewhile(self.cache.__contains__, hashes)
        return tuple([self.cache[of_block] for of_block in held])

    def granted(self, key: Key) -> None:
        self.grants.append(key)

    def release(self, key: Key) -> None:
        assert key not in self.released, "released twice"
        self.released.append(key)

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        assert key not in self.handed and key not in self.failures, "reported twice"
        self.handed[key] = timing

    def withdrawn(self, key: Key) -> None:
        self.handed_off(key, HandoffTiming())

    def stop_move(self, key: Key) -> MoveStopped | None:
        return self.stops.pop(key, None)

    def in_doubt(self, key: Key, error: BatonError) -> None:
        self.doubts.append(key)
        self.failed(key, error)

    def failed(self, key: Key, error: BatonError) -> None:
        assert key not in self.handed and key not in self.failures, "reported twice"
        self.failures[key] = error


class FakeWorker:
    """Handoffs behind a real port; everything runs on the test's event loop."""

    def __init__(
        self,
        name: str,
        *,
        epoch: int = 0,
        settings: TransferSettings | None = None,
        num_blocks: int = 16,
        digest: str = DIGEST,
        transport: Transport | None = None,
        arena: Arena | None = None,
        clock: object = None,
        token: str = TOKEN,
    ) -> None:
        self.name = name
        self.epoch = epoch or zlib.crc32(name.encode()) + 1
        self.settings = settings or TransferSettings()
        self.arena = arena or make_arena(num_blocks)
        self.host = FakeHost(self.arena.num_blocks)
        self.transport = transport or InprocTransport(f"{name}-{self.epoch}")
        self._digest = digest
        self._token = token
        self._clock = clock

    async def start(self) -> FakeWorker:
        loop = asyncio.get_running_loop()
        self.server = StreamServer("127.0.0.1", 0, self._token)
        self.port = self.server.port
        self.ref = common_pb2.WorkerRef(
            worker_id=self.name, epoch=self.epoch, address=self.server.address
        )
        codecs = wire_codecs(self.settings, [GROUP], [self.arena])
        self.transport.register([self.arena], codecs)
        extra: dict[str, Any] = {} if self._clock is None else {"clock": self._clock}

        def post(work: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(work)

        self.handoffs = Handoffs(
            self.ref,
            self._digest,
            self.transport,
            [self.arena],
            [GROUP],
            self.host,
            post,
            loop,
            self._token,
            self.settings,
            fetch_host=self.host,
            **extra,
        )
        self.server.add(HANDOFF, self.handoffs.serve)
        await self.server.start()
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def _tick(self) -> None:
        while True:
            self.handoffs.tick()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Leave as a worker does."""
        self._ticker.cancel()
        self.handoffs.close()
        await self.server.stop(0)
        self.transport.close()
        await asyncio.sleep(0)


class Handoff:
    """One handoff between two FakeWorkers, driven step by step."""

    def __init__(
        self,
        source: FakeWorker,
        target: FakeWorker,
        number: int = 0,
        *,
        num_tokens: int = 10,
        choices: int = 1,
        attempt: int = 1,
        deadline: float = 1e9,
    ) -> None:
        self.source, self.target = source, target
        self.handoff_id = number.to_bytes(16, "big")
        self.attempt = attempt
        self.request = make_request(num_tokens, choices=choices, seed=number, deadline=deadline)
        self.source_key: Key = (source.name, number)
        self.target_key: Key = (target.name, number)
        self.num_blocks = GROUP.num_blocks(num_tokens)
        # Source blocks, filled with contents of this handoff.
        self.ids = tuple(range(self.num_blocks))

    def submit(self, *, source: bool = True, target: bool = True) -> Handoff:
        """Tell both workers, or one of them."""
        where = (self.handoff_id, self.request, self.attempt)
        if target:
            self.target.handoffs.start_target(
                where[0], self.target_key, where[1], where[2], self.source.ref
            )
        if source:
            self.source.handoffs.start_source(
                where[0], self.source_key, where[1], where[2], self.target.ref
            )
        return self

    def offer(self) -> Handoff:
        fill(self.source.arena, self.ids, seed=self.request.seed)
        self.source.handoffs.offer(due_of(self.source_key, self.request))
        return self

    def compute(
        self,
        first: int = 0,
        count: int | None = None,
        outputs: Mapping[int, SourceOutput] | None = None,
    ) -> Handoff:
        """Blocks `first` to `first + count` are final; with the last ones come first tokens."""
        end = self.num_blocks if count is None else first + count
        done = end == self.num_blocks
        if done and outputs is None:
            outputs = {choice: SourceOutput((7,), None) for choice in self.request.outputs}
        ready = BlocksReady(self.source_key, (first,), (self.ids[first:end],), done)
        self.source.handoffs.blocks_ready(ready, outputs)
        return self

    def run(self) -> Handoff:
        """Everything up to the source's last word."""
        return self.submit().offer().compute()

    @property
    def ended(self) -> bool:
        """Both hosts know how it ended."""
        return all(
            key in host.handed or key in host.failures
            for host, key in (
                (self.source.host, self.source_key),
                (self.target.host, self.target_key),
            )
        )

    def failures(self) -> tuple[BatonError, BatonError]:
        """Why it failed, at the source and at the target."""
        return (
            self.source.host.failures[self.source_key],
            self.target.host.failures[self.target_key],
        )


def make_int8_world() -> tuple[InprocTransport, InprocTransport, Arena, Arena]:
    """A source connected to `target`, both with the int8 codec, and their memory."""
    settings = TransferSettings(codec="int8")
    source, target = (InprocTransport(f"int8-{next(_numbers)}") for _ in range(2))
    here, there = make_arena(), make_arena()
    for transport, arena in ((source, here), (target, there)):
        transport.register([arena], wire_codecs(settings, [GROUP], [arena]))
    source.connect("target", [PeerShard(target.endpoint_metadata(), (there,))])
    return source, target, here, there
