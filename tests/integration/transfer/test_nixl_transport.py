"""NIXL and torch.distributed between two real processes: what is written arrives, and what goes
wrong is known."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from baton.core.errors import HandoffError
from baton.core.kv import Arena, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer.base import (
    BlockWrite,
    LinkInfo,
    PeerShard,
    WriteResult,
)
from baton.transfer.checksum import block_checksums
from baton.transfer.nixl import fences_node
from fakes.nixl_process import BLOCK_BYTES, Child, child, make_transport, memory_main
from fakes.transfer import GROUP, fill, make_arena

NUM_BLOCKS = 512
# Without the kernel's cross-process copy, a receiver takes part in every write, as on a network.
FENCED = {"ucx_tls": "tcp,self"}
DIST = {"transport": "dist"}
# What every transport between processes must do, and where a receiver takes part in every write.
every_way = pytest.mark.parametrize("way", [{}, FENCED, DIST], ids=["shm", "tcp", "dist"])
fenced_ways = pytest.mark.parametrize("way", [FENCED, DIST], ids=["tcp", "dist"])


def shard_at(metadata: bytes, address: int) -> PeerShard:
    """A child's only rank."""
    held = whole_slice(GROUP)
    arena = Arena(0, address, NUM_BLOCKS, BLOCK_BYTES, "DRAM", 0, None, held)
    return PeerShard(metadata, (arena,))


Way = dict[str, Any]


class Source:
    """This process's end, connected to a child's memory."""

    def __init__(self, target: Child, settings: TransferSettings) -> None:
        self.arena = make_arena(NUM_BLOCKS, BLOCK_BYTES)
        fill(self.arena, range(NUM_BLOCKS), seed=1)
        self.transport = make_transport(f"source-{time.monotonic_ns()}", settings)
        self.transport.register([self.arena])
        self.links: queue.Queue[LinkInfo] = queue.Queue()
        self.metadata, self.address = target.answer()
        self.connect(self.metadata)
        self.results: queue.Queue[WriteResult] = queue.Queue()

    def connect(self, metadata: bytes) -> None:
        self.transport.connect("target", [shard_at(metadata, self.address)], self.links.put)

    def send(self, local: list[int], remote: list[int], timeout_s: float = 20.0) -> None:
        write = BlockWrite(0, tuple(local), tuple(remote))
        self.transport.send("target", [write], self.results.put, timeout_s)

    def result(self) -> WriteResult:
        return self.results.get(timeout=60)


@contextlib.contextmanager
def pair(way: Way) -> Iterator[tuple[Source, Child]]:
    with child(memory_main, NUM_BLOCKS, way) as target:
        source = Source(target, TransferSettings(**way))
        try:
            yield source, target
        finally:
            source.transport.close()


@pytest.fixture(autouse=True)
def _ucx_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    # The transport sets these for its process; they must not reach the next test.
    for name in ("UCX_TLS", "UCX_NET_DEVICES", "UCX_LOG_LEVEL", "NIXL_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@every_way
def test_scattered_blocks_arrive_in_order_with_their_checksums(way: Way) -> None:
    with pair(way) as (source, target):
        rng = np.random.default_rng(0)
        local = rng.permutation(NUM_BLOCKS)[:300].tolist()
        remote = rng.permutation(NUM_BLOCKS)[:300].tolist()
        source.send(local, remote)
        result = source.result()
        assert result.error is None and result.quiesced
        assert result.num_bytes == 300 * BLOCK_BYTES
        assert np.array_equal(target.ask("blocks", remote), source.arena.view[local])
        assert list(result.checksums[0]) == block_checksums(source.arena, local, "xxh3")
        assert target.ask("num_written") == 300
        # Writes keep their order.
        for i in range(50):
            source.send([i], [0])
        assert all(source.result().error is None for _ in range(50))
        assert np.array_equal(target.ask("blocks", [0])[0], source.arena.view[49])
        for here, there in (([NUM_BLOCKS], [0]), ([0], [NUM_BLOCKS]), ([-1], [0])):
            with pytest.raises(HandoffError, match="no such block"):
                source.send(here, there)


@pytest.mark.parametrize("way", [{}, FENCED])
def test_sender_that_leaves_takes_nothing_from_its_successor(way: Way) -> None:
    with pair(way) as (source, _):
        for number in range(10):
            source.connect(source.metadata)
            source.send([number], [number])
            assert source.result().error is None


@pytest.mark.parametrize(("way", "fabric"), [({}, "shared memory"), (FENCED, "tcp"), (DIST, "tcp")])
def test_link_is_measured_without_touching_blocks(way: Way, fabric: str) -> None:
    with pair(way) as (source, target):
        link = source.links.get(timeout=60)
        assert link.fabric == fabric and link.bytes_per_s > 0
        assert target.ask("num_written") == 0
        source.send([0], [0])
        assert source.result().error is None
        assert source.links.empty()


@fenced_ways
def test_link_to_a_frozen_peer_does_not_hang_and_is_measured_with_work_going_on(way: Way) -> None:
    with pair(way) as (source, target):
        source.links.get(timeout=60)
        target.freeze()
        source.connect(source.metadata)
        source.send([0], [0], timeout_s=0.2)
        assert source.result().error is not None
        target.thaw()


@fenced_ways
def test_killed_target_is_an_error_and_never_a_hang(way: Way) -> None:
    with pair(way) as (source, target):
        source.send([0], [0])
        assert source.result().error is None
        for _ in range(20):
            source.send(list(range(NUM_BLOCKS)), list(range(NUM_BLOCKS)))
        target.kill()
        for _ in range(20):
            source.result()
        source.send([0], [0])
        assert source.result().error is not None


@fenced_ways
def test_write_to_a_frozen_target_may_land_and_says_so_until_it_has(way: Way) -> None:
    with pair(way) as (source, target):
        source.send([0], [0])
        assert source.result().error is None
        target.freeze()
        everything = list(range(NUM_BLOCKS))
        hung = WriteResult((), 0)
        while hung.quiesced:
            # On a slow machine the time may be up before the write has begun.
            source.send(everything, everything, timeout_s=0.3)
            hung = source.result()
            assert hung.error is not None
        target.thaw()
        # The bytes that UCX had queued land now: releasing the request would not have stopped them.
        late = source.result()
        assert late.error is not None and late.quiesced


@fenced_ways
def test_frozen_peer_does_not_hold_up_another(way: Way) -> None:
    with (
        pair(way) as (source, target),
        child(memory_main, NUM_BLOCKS, way) as other,
    ):
        metadata, address = other.answer()
        source.transport.connect("other", [shard_at(metadata, address)])
        source.send([0], [0])
        assert source.result().error is None
        target.freeze()
        everything = list(range(NUM_BLOCKS))
        source.send(everything, everything, timeout_s=60)
        done: queue.Queue[WriteResult] = queue.Queue()
        for _ in range(5):
            source.transport.send("other", [BlockWrite(0, (1,), (2,))], done.put, 60)
            assert done.get(timeout=60).error is None
        assert source.results.empty()
        target.thaw()
        assert source.result().error is None


@fenced_ways
def test_recreated_agent_takes_no_write_of_before(way: Way) -> None:
    with pair(way) as (source, target):
        source.send([0, 1], [0, 1])
        assert source.result().error is None
        metadata, _ = target.ask("recreate")
        source.send([2, 3], [2, 3])
        assert source.result().error is not None
        assert target.ask("num_written") == 0
        source.connect(metadata)
        source.send([4, 5], [6, 7])
        assert source.result().error is None
        assert np.array_equal(target.ask("blocks", [6, 7]), source.arena.view[[4, 5]])


@every_way
def test_recreated_source_writes_again(way: Way) -> None:
    with pair(way) as (source, target):
        source.send([0], [0])
        assert source.result().error is None
        before = source.transport.agent_name
        source.transport.recreate()
        assert source.transport.agent_name != before
        with pytest.raises(HandoffError, match="not connected"):
            source.send([0], [0])
        metadata, _ = target.ask("recreate")
        source.connect(metadata)
        source.send([1], [1])
        assert source.result().error is None
        assert target.ask("num_written") == 1


@every_way
def test_disconnected_peer_fails_what_is_queued(way: Way) -> None:
    with pair(way) as (source, _):
        for _ in range(3):
            source.send(list(range(NUM_BLOCKS)), list(range(NUM_BLOCKS)))
        source.transport.disconnect("target")
        results = [source.result() for _ in range(3)]
        assert all(r.error is None or r.quiesced for r in results)
        with pytest.raises(HandoffError, match="not connected"):
            source.send([0], [0])


@pytest.mark.parametrize(
    ("ucx_tls", "fences"),
    [
        (None, False),
        ("all", False),
        ("tcp,self", True),
        ("tcp,posix,sysv", True),
        ("tcp,cma", False),
        ("rc,cuda_copy,cuda_ipc", False),
        ("sm,tcp", False),
        ("^cma", False),
        ("^cma,knem,xpmem,cuda_ipc", True),
        ("^sm,cuda", True),
    ],
)
def test_which_transports_a_new_agent_fences(ucx_tls: str | None, fences: bool) -> None:
    assert fences_node(ucx_tls) is fences
