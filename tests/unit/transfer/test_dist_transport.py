"""Transport over torch.distributed, both ends in one process: what lands, and what does not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from baton.core.errors import HandoffError
from baton.core.handoff import ReservedGroup
from baton.core.kv import whole_slice
from baton.core.settings import TransferSettings
from baton.transfer import dist_receiver, dist_sender, sender
from baton.transfer.base import (
    BlockWrite,
    LinkInfo,
    PeerShard,
    WriteResult,
)
from baton.transfer.checksum import block_checksums
from baton.transfer.dist import DistTransport
from baton.transfer.dist_channel import Channel, announce, connect_store, unpack
from baton.transfer.dist_receiver import Landing
from baton.transfer.inproc import InprocTransport
from baton.transfer.relayout import checksum_runs
from fakes.ranks import SPEC, divided, rank_arena, whole_blocks
from fakes.transfer import fill, make_arena

HOST = "127.0.0.1"
KEY = ("t", 0)


def reserved(ids: list[int], skip: set[int] | None = None) -> list[ReservedGroup]:
    """What a target grants of one group."""
    return [ReservedGroup(tuple(ids), (0,) * len(ids), frozenset(skip or ()))]


class Pair:
    """A source and a target of one rank each."""

    def __init__(self) -> None:
        settings = TransferSettings()
        self.here, self.there = make_arena(8), make_arena(8)
        fill(self.here, range(8), seed=3)
        self.source = DistTransport("s", HOST, settings)
        self.target = DistTransport("t", HOST, settings)
        self.source.register([self.here])
        self.target.register([self.there])
        self.links: queue.Queue[LinkInfo] = queue.Queue()
        self.results: queue.Queue[WriteResult] = queue.Queue()
        self.connect()

    def connect(self) -> None:
        shard = PeerShard(self.target.endpoint_metadata(), (self.there,))
        self.source.connect("t", [shard], self.links.put)

    def write(self, local: list[int], remote: list[int], timeout_s: float = 20) -> WriteResult:
        write = BlockWrite(0, tuple(local), tuple(remote))
        self.source.send("t", [write], self.results.put, timeout_s)
        return self.results.get(timeout=60)

    def close(self) -> None:
        self.source.close()
        self.target.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    it = Pair()
    yield it
    it.close()


def test_only_expected_blocks_are_written_and_only_while_they_are(pair: Pair) -> None:
    pair.target.expect(KEY, reserved([2, 5, 6], skip={1}))
    result = pair.write([0, 1], [2, 6])
    assert result.error is None
    assert np.array_equal(pair.there.view[[2, 6]], pair.here.view[[0, 1]])
    assert list(result.checksums[0]) == block_checksums(pair.here, [0, 1], "xxh3")
    # A block that is not granted takes those with it: nothing of the piece lands.
    for remote in ([2, 3], [5, 6], [7, 0]):
        before = pair.there.view.copy()
        refused = pair.write([4, 7], remote)
        assert "expects no writes" in (refused.error or "") and refused.quiesced
        assert np.array_equal(pair.there.view, before)
    pair.target.unexpect(KEY)
    late = pair.write([3], [2])
    assert late.error is not None and late.quiesced
    assert np.array_equal(pair.there.view[2], pair.here.view[0])


def test_recreated_target_forgets_what_it_expected_and_where(pair: Pair) -> None:
    pair.target.expect(KEY, reserved([1]))
    assert pair.write([0], [1]).error is None
    pair.target.recreate()
    assert pair.write([0], [1]).error is not None
    pair.connect()
    refused = pair.write([0], [1])
    assert "expects no writes" in (refused.error or "")
    pair.target.expect(KEY, reserved([1]))
    assert pair.write([5], [1]).error is None
    assert np.array_equal(pair.there.view[1], pair.here.view[5])


def test_link_is_measured_once_and_said_to_be_tcp(pair: Pair) -> None:
    link = pair.links.get(timeout=60)
    assert link.fabric == "tcp" and link.bytes_per_s > 0
    assert not pair.there.view.any()
    pair.target.expect(KEY, reserved([0]))
    assert pair.write([0], [0]).error is None
    assert pair.links.empty()


def test_endpoint_of_another_transport_fails_writes_and_not_the_worker(pair: Pair) -> None:
    other = InprocTransport("other")
    other.register([pair.there])
    pair.source.connect("t", [PeerShard(other.endpoint_metadata(), (pair.there,))])
    result = pair.write([0], [0])
    assert "not of transport dist" in (result.error or "") and result.quiesced


@pytest.mark.parametrize(
    ("header", "index"),
    [
        ([0, 1, 1, 2**40], None),
        ([7, 1, 1, 1024], None),
        ([0, 99, 1, 1024], None),
        ([0, 1, 2**40, 1024], None),
        ([0, 1, 1, 1024], [8, 0, 1024]),
        ([0, 1, 1, 1024], [-1, 0, 1024]),
        ([0, 1, 1, 1024], [0, 1, 1024]),
        ([0, 1, 1, 1024], [0, 2**62, 2**62]),
        ([0, 1, 1, 1024], [0, 0, 512]),
    ],
)
def test_pieces_that_make_no_sense_end_the_channel(
    pair: Pair, header: list[int], index: list[int] | None
) -> None:
    pair.target.expect(KEY, reserved(list(range(8))))
    endpoint = unpack(pair.target.endpoint_metadata())
    store = connect_store(endpoint)
    channel = Channel(store, HOST, announce(store, endpoint.prefix, "x", nccl=False), rank=0)
    channel.send_numbers(np.array(header, np.int64), 10)
    with pytest.raises(RuntimeError):
        if index is not None:
            channel.send_numbers(np.array(index, np.int64), 10)
        channel.recv_numbers(1, 20)
    assert not pair.there.view.any()
    # Others' channels go on.
    assert pair.write([0], [0]).error is None


def test_new_channel_of_a_source_proves_that_the_old_one_is_silent(pair: Pair) -> None:
    pair.target.expect(KEY, reserved(list(range(8))))
    assert pair.write([0], [0]).error is None
    wait_for(lambda: not pair.links.empty())
    # The landing takes longer than the write may.
    landing = pair.target._here.landing
    with landing._lock:
        late = pair.write([1], [1], timeout_s=0.3)
        assert late.error is not None and not late.quiesced
    settled = pair.results.get(timeout=60)
    assert settled.error is not None and settled.quiesced
    assert pair.write([2], [1]).error is None
    assert np.array_equal(pair.there.view[1], pair.here.view[2])


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize(("here", "there"), [(2, 1), (1, 2), (2, 2)])
def test_every_byte_arrives_between_ranks_over_dist(here: int, there: int) -> None:
    contents = whole_blocks(8, seed=5)
    sources = [(rank_arena(held), DistTransport(f"s{i}", HOST, TransferSettings()))
               for i, held in enumerate(divided(here))]  # fmt: skip
    targets = [(rank_arena(held), DistTransport(f"t{i}", HOST, TransferSettings()))
               for i, held in enumerate(divided(there))]  # fmt: skip
    for arena, transport in (*sources, *targets):
        transport.register([arena])
    for _, transport in targets:
        transport.expect(KEY, reserved([7, 1]))
    results: queue.Queue[WriteResult] = queue.Queue()
    shards = [PeerShard(t.endpoint_metadata(), (a,)) for a, t in targets]
    for arena, transport in sources:
        held = arena.held
        for i, block in enumerate(contents):
            arena.view[i] = block[slice(*held.layers), slice(*held.heads)].ravel()
        transport.connect("t", shards)
        for part in range(2):
            transport.send("t", [BlockWrite(0, (3, 4), (7, 1), part, 2)], results.put, 20)
        first, last = results.get(timeout=60), results.get(timeout=60)
        assert first.error is None and last.error is None
        assert first.num_bytes + last.num_bytes == 2 * arena.block_bytes
        shares = [
            block_checksums(theirs, [7, 1], "xxh3", runs[0])
            for theirs, _ in targets
            if (runs := checksum_runs(theirs, [PeerShard(b"", (arena,))]))
        ]
        assert first.checksums == ((),)
        assert list(last.checksums[0]) == [sum(n) % 2**64 for n in zip(*shares, strict=True)]
    for arena, _ in targets:
        held = arena.held
        for i, j in ((3, 7), (4, 1)):
            expected = contents[i][slice(*held.layers), slice(*held.heads)].ravel()
            assert np.array_equal(arena.view[j], expected)
    for _, transport in (*sources, *targets):
        transport.close()


def test_blocks_of_two_handoffs_are_expected_apart() -> None:
    arena = rank_arena(whole_slice(SPEC))
    landing = Landing({0: arena})
    import torch

    data = torch.ones((1, SPEC.block_bytes), dtype=torch.uint8)
    everything = [(0, SPEC.block_bytes)]

    def lands(block: int) -> bool:
        return landing.land(0, np.array([block]), everything, data)

    landing.expect(("a", 1), reserved([1, 2]))
    landing.expect(("b", 1), reserved([3]))
    # A repeated grant says the same once more.
    landing.expect(("a", 1), reserved([1, 2]))
    assert lands(1) and lands(3) and not lands(0)
    landing.unexpect(("a", 1))
    landing.unexpect(("a", 1))
    assert not lands(1) and not lands(2) and lands(3)


def test_write_that_fails_in_an_unforeseen_way_is_in_doubt_and_others_go_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.target.expect(KEY, reserved([0, 1]))
    assert pair.write([0], [0]).error is None
    wait_for(lambda: not pair.links.empty())
    with monkeypatch.context() as broken:
        broken.setattr(dist_sender, "written_checksums", lambda *_: 1 / 0)
        failed = pair.write([1], [1], timeout_s=5)
    assert "division" in (failed.error or "") and not failed.quiesced
    # A new channel proves that it cannot land any more.
    settled = pair.results.get(timeout=60)
    assert settled.error is not None and settled.quiesced
    assert pair.write([2], [1]).error is None


def test_measurement_that_fails_in_an_unforeseen_way_harms_no_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise ZeroDivisionError("this is a bug")

    monkeypatch.setattr(sender, "measure", fail)
    pair = Pair()
    wait_for(lambda: tried)
    pair.target.expect(KEY, reserved([0]))
    assert pair.write([0], [0]).error is None
    pair.close()


def test_nothing_is_queued_for_a_sender_that_has_ended(pair: Pair) -> None:
    [ended] = [t for t in threading.enumerate() if t.name == "dist-to-t"]
    assert isinstance(ended, sender.Sender)
    pair.source.disconnect("t")
    ended.join(60)
    with pytest.raises(HandoffError):
        ended.put([BlockWrite(0, (0,), (0,))], pair.results.put, 20)


def test_receiver_waits_on_when_a_wait_has_timed_out_and_keeps_no_dead_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist_receiver, "WISH_WAIT_S", 0.01)
    monkeypatch.setattr(dist_receiver, "ACCEPT_PAUSE_S", 0.01)
    pair = Pair()
    pair.target.expect(KEY, reserved([0]))
    for number in range(4):
        # Each is a life of its own, as a peer that was started again has.
        again = DistTransport(f"again{number}", HOST, TransferSettings())
        again.register([pair.here])
        again.connect("t", [PeerShard(pair.target.endpoint_metadata(), (pair.there,))])
        time.sleep(0.05)
        again.send("t", [BlockWrite(0, (number,), (0,))], pair.results.put, 20)
        assert pair.results.get(timeout=60).error is None
        again.close()
    wait_for(lambda: sum(t.name.startswith("dist-from-again") for t in threading.enumerate()) == 0)
    assert pair.write([0], [0]).error is None
    assert len(pair.target._here._incoming) <= 2
    pair.close()
