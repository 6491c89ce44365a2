"""What is made of a worker's events: whenever the feed claims to be right, it is."""

from __future__ import annotations

from collections import deque
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.block_hash import index_keys
from baton.gateway.workers.kv_feed import Heard, KvFeed, hash_scope, indexed_group
from baton.gateway.workers.prompt_hashes import HashScope
from baton.router.prefix_index import IndexTier, PrefixIndex
from baton.v1 import common_pb2, events_pb2

ROW, GROUP = 3, 1
DEVICE, HOST = events_pb2.KV_TIER_DEVICE, events_pb2.KV_TIER_HOST
FULL = common_pb2.GroupSpec.KIND_FULL
WINDOW = common_pb2.GroupSpec.KIND_WINDOW
MLA = common_pb2.GroupSpec.KIND_MLA
# Deltas that the worker keeps, and hashes in a piece of its snapshots.
KEPT, CHUNK = 3, 2
NUMBERS = range(7)

# (tier, number of a block)
Held = set[tuple[int, int]]


def h(number: int) -> bytes:
    return (number + 1).to_bytes(8, "big") * 2


def blocks(held: Held, group: int = GROUP) -> list[events_pb2.KvBlocks]:
    return [
        events_pb2.KvBlocks(
            group=group, tier=tier, hashes=b"".join(h(n) for t, n in sorted(held) if t == tier)
        )
        for tier in sorted({tier for tier, _ in held})
    ]


def indexed(index: PrefixIndex) -> dict[int, int]:
    """Number of a block to the best tier on which the row has it."""
    found = {}
    for number in NUMBERS:
        overlap = index.match(index_keys([h(number)]), 0.0, ROW + 1)
        for tier, counts in enumerate((overlap.device, overlap.host, overlap.disk)):
            if counts[ROW]:
                found[number] = tier
    return found


class Life:
    """A worker process: its cache, and the newest deltas."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.held: Held = set()
        self.event_id = 0
        self.deltas: deque[events_pb2.KvDelta] = deque(maxlen=KEPT)

    def change(self, stored: Held, removed: Held) -> None:
        self.held = (self.held | stored) - removed
        self.event_id += 1
        others = blocks({(DEVICE, 6), (HOST, 5)}, group=GROUP + 1)
        delta = events_pb2.KvDelta(
            event_id=self.event_id,
            stored=[*blocks(stored - removed), *others],
            removed=blocks(removed),
        )
        self.deltas.append(delta)

    def answer(self, request: events_pb2.KvEventsRequest) -> list[events_pb2.KvEventsResponse]:
        """What a new stream begins with."""
        after = request.after_event_id
        known = 0 < after <= self.event_id and request.worker_epoch == self.epoch
        missed = self.event_id - after
        if known and missed <= len(self.deltas):
            kept = list(self.deltas)[len(self.deltas) - missed :]
            return [self.response(delta=delta) for delta in kept]
        pieces = [set(sorted(self.held)[i : i + CHUNK]) for i in range(0, len(self.held), CHUNK)]
        pieces = pieces or [set()]
        return [
            self.response(
                snapshot=events_pb2.KvSnapshotChunk(
                    event_id=self.event_id, last=n == len(pieces), blocks=blocks(piece)
                )
            )
            for n, piece in enumerate(pieces, 1)
        ]

    def response(self, **message: Any) -> events_pb2.KvEventsResponse:
        return events_pb2.KvEventsResponse(worker_epoch=self.epoch, **message)


cells = st.sets(st.tuples(st.sampled_from([DEVICE, HOST]), st.sampled_from(NUMBERS)), max_size=5)


class FeedMachine(RuleBasedStateMachine):
    """A worker changes and restarts, messages are lost, streams break anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        # Somebody else's blocks stay out of it.
        self.index.store(ROW + 1, IndexTier.DEVICE, index_keys([h(n) for n in NUMBERS]))
        self.life = Life(1)
        self.feed = KvFeed(self.index, ROW, GROUP, self.life.epoch)
        self.wire: deque[events_pb2.KvEventsResponse] = deque()
        self.is_lossy = False
        self.open()

    @rule()
    def open(self) -> None:
        self.wire = deque(self.life.answer(self.feed.request()))
        self.is_lossy = False

    @rule(stored=cells, removed=cells)
    def change(self, stored: Held, removed: Held) -> None:
        self.life.change(stored, removed)
        self.wire.append(self.life.response(delta=self.life.deltas[-1]))

    @rule()
    def restart(self) -> None:
        self.life = Life(self.life.epoch + 1)
        self.open()

    @precondition(lambda self: self.wire)
    @rule()
    def lose(self) -> None:
        if self.wire.popleft().HasField("delta"):
            self.is_lossy = True
        else:
            # Not even the feed could know that a piece of a snapshot is missing.
            self.open()

    @precondition(lambda self: self.wire)
    @rule()
    def deliver(self) -> None:
        if self.feed.take(self.wire.popleft()) is Heard.GAP:
            assert self.is_lossy
            self.open()

    @rule()
    def deliver_all(self) -> None:
        while self.wire:
            self.deliver()

    @invariant()
    def is_right_when_it_says_so(self) -> None:
        if self.feed.is_synced and not self.wire and not self.is_lossy:
            best = {n: t - DEVICE for t, n in sorted(self.life.held, reverse=True)}
            assert indexed(self.index) == best

    def teardown(self) -> None:
        self.open()
        self.deliver_all()
        assert self.feed.is_synced
        self.is_right_when_it_says_so()


TestFeedMachine: Any = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_message_that_cannot_be_applied_is_an_error_and_doubt_asks_for_a_snapshot() -> None:
    index = PrefixIndex()
    feed = KvFeed(index, ROW, GROUP, 1)
    life = Life(1)
    for message in life.answer(feed.request()):
        assert feed.take(message) is Heard.SNAPSHOT
    life.change({(DEVICE, 1)}, set())
    bad = life.response(delta=life.deltas[-1])
    bad.delta.stored[0].hashes += b"xyz"
    with pytest.raises(ValueError):
        feed.take(bad)
    with pytest.raises(ValueError):
        feed.take(life.response())
    feed.doubt()
    assert not feed.is_synced
    assert feed.request().after_event_id == 0


def lease(*groups: tuple[int, int], block_size: int = 16) -> common_pb2.WorkerLease:
    return common_pb2.WorkerLease(
        digest="d",
        groups=[common_pb2.GroupSpec(kind=kind, block_size=size) for kind, size in groups],
        capacity=common_pb2.Capacity(block_size=block_size),
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(FULL, 16)], 0),
        ([(WINDOW, 16), (FULL, 16), (FULL, 16)], 1),
        ([(MLA, 16)], 0),
        ([(WINDOW, 16)], None),
        # Policies count in the blocks of which the capacity speaks.
        ([(FULL, 32), (FULL, 16)], 1),
        ([(FULL, 32)], None),
        ([(0, 16)], None),
        ([], None),
    ],
)
def test_first_full_attention_group_is_indexed(
    groups: list[tuple[int, int]], expected: int | None
) -> None:
    assert indexed_group(lease(*groups)) == expected
    assert hash_scope(lease(*groups)) == HashScope("d", 16)
