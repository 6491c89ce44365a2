"""A watcher that applies what it is sent knows exactly what the worker's cache holds."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.engine.outputs import CacheDelta, Tier
from baton.v1 import events_pb2
from baton.worker.events import EventLog

EPOCH = 11
DEVICE, HOST = events_pb2.KV_TIER_DEVICE, events_pb2.KV_TIER_HOST
# By group and tier.
Held = dict[tuple[int, int], set[bytes]]


def h(number: int) -> bytes:
    return number.to_bytes(16, "little")


class Told:
    """A stream as `EventLog.serve` sees it, whose caller takes one message at a time."""

    def __init__(self, log: EventLog, request: events_pb2.KvEventsRequest) -> None:
        self._request = request
        self._wants = asyncio.Event()
        self._messages: asyncio.Queue[events_pb2.KvEventsResponse] = asyncio.Queue()
        self._task = asyncio.create_task(log.serve(cast(Any, self)))

    # Stream
    async def read(self) -> events_pb2.KvEventsRequest:
        return self._request

    async def writable(self) -> None:
        await self._wants.wait()

    def send(self, message: events_pb2.KvEventsResponse) -> None:
        self._wants.clear()
        self._messages.put_nowait(message)

    # the test's side
    async def next(self) -> events_pb2.KvEventsResponse:
        if self._messages.empty():
            self._wants.set()
        return await self._messages.get()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Watcher:
    """What a router makes of the stream."""

    def __init__(self, log: EventLog, after: int = 0, epoch: int = EPOCH) -> None:
        request = events_pb2.KvEventsRequest(worker_epoch=epoch, after_event_id=after)
        self.stream = Told(log, request)
        self.held: Held = {}
        self.event_id = after
        self.num_snapshots = 0
        self._in_snapshot = False

    async def follow(self, until: int) -> None:
        """Apply messages up to an event."""
        while self.event_id < until or self._in_snapshot or not self._started(until):
            self._apply(await self.stream.next())

    def _started(self, until: int) -> bool:
        return until > 0 or self.num_snapshots > 0

    def _apply(self, message: events_pb2.KvEventsResponse) -> None:
        assert message.worker_epoch == EPOCH
        if message.WhichOneof("message") == "snapshot":
            if not self._in_snapshot:
                self.num_snapshots += 1
                self.held = {}
            self._add(message.snapshot.blocks)
            self._in_snapshot = not message.snapshot.last
            self.event_id = message.snapshot.event_id
            return
        assert not self._in_snapshot
        assert message.delta.event_id == self.event_id + 1, "a gap"
        self._add(message.delta.stored)
        for blocks in message.delta.removed:
            place = (blocks.group, blocks.tier)
            self.held.setdefault(place, set()).difference_update(split(blocks.hashes))
        self.event_id = message.delta.event_id

    def _add(self, many: Any) -> None:
        for blocks in many:
            self.held.setdefault((blocks.group, blocks.tier), set()).update(split(blocks.hashes))

    def known(self) -> Held:
        return {place: hashes for place, hashes in self.held.items() if hashes}


def split(hashes: bytes) -> set[bytes]:
    return {hashes[i : i + 16] for i in range(0, len(hashes), 16)}


async def test_new_watcher_gets_a_snapshot_in_chunks_then_deltas() -> None:
    log = EventLog(EPOCH, chunk_hashes=3)
    log.append([CacheDelta(0, stored=tuple(map(h, range(10)))), CacheDelta(1, stored=(h(1),))])
    watcher = Watcher(log)
    async with aclosing(watcher.stream):
        await watcher.follow(1)
        log.append([CacheDelta(0, stored=(h(50),), removed=(h(3), h(4)))])
        await watcher.follow(2)
    assert watcher.num_snapshots == 1
    assert watcher.known() == {
        (0, DEVICE): {h(i) for i in (0, 1, 2, 5, 6, 7, 8, 9, 50)},
        (1, DEVICE): {h(1)},
    }


async def test_empty_cache_still_sends_a_snapshot() -> None:
    watcher = Watcher(EventLog(EPOCH))
    async with aclosing(watcher.stream):
        await watcher.follow(0)
    assert watcher.num_snapshots == 1
    assert watcher.known() == {}


async def test_watcher_that_is_up_to_date_gets_deltas_only() -> None:
    log = EventLog(EPOCH)
    log.append([CacheDelta(0, stored=(h(1),))])
    log.append([CacheDelta(0, stored=(h(2),))])
    watcher = Watcher(log, after=1)
    async with aclosing(watcher.stream):
        await watcher.follow(2)
    assert watcher.num_snapshots == 0
    assert watcher.known() == {(0, DEVICE): {h(2)}}


async def test_gap_asks_for_a_snapshot() -> None:
    log = EventLog(EPOCH, max_deltas=2)
    for i in range(1, 6):
        log.append([CacheDelta(0, stored=(h(i),))])
    behind = Watcher(log, after=1)
    async with aclosing(behind.stream):
        await behind.follow(5)
    assert behind.num_snapshots == 1
    # Event 3 is the last one before the two that are kept.
    just = Watcher(log, after=3)
    async with aclosing(just.stream):
        await just.follow(5)
    assert just.num_snapshots == 0


async def test_another_epoch_or_a_number_from_the_future_gets_a_snapshot() -> None:
    log = EventLog(EPOCH)
    log.append([CacheDelta(0, stored=(h(1),))])
    for watcher in (Watcher(log, after=1, epoch=99), Watcher(log, after=77)):
        async with aclosing(watcher.stream):
            watcher.event_id = 0
            await watcher.follow(1)
        assert watcher.num_snapshots == 1


async def test_waiting_watcher_wakes_for_each_event() -> None:
    log = EventLog(EPOCH)
    log.append([CacheDelta(0, stored=(h(1),))])
    watcher = Watcher(log)
    async with aclosing(watcher.stream):
        for number in range(2, 5):
            following = asyncio.create_task(watcher.follow(number))
            await asyncio.sleep(0)
            log.append([CacheDelta(0, stored=(h(number),))])
            await following
    assert watcher.known() == {(0, DEVICE): {h(i) for i in range(1, 5)}}


async def test_steps_in_quick_succession_become_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(EPOCH, min_gap_s=60)
    timers: list[Any] = []
    loop = asyncio.get_running_loop()

    def keep(_delay_s: float, call: Any) -> Any:
        timers.append(call)
        return call

    monkeypatch.setattr(loop, "call_later", keep)
    watcher = Watcher(log)
    async with aclosing(watcher.stream):
        # The first one comes at once.
        log.append([CacheDelta(0, stored=(h(1), h(2)))])
        await watcher.follow(1)
        first = {(0, DEVICE): {h(1), h(2)}}
        assert watcher.known() == first
        log.append([CacheDelta(0, stored=(h(3), h(4)), removed=(h(1),))])
        log.append([CacheDelta(0, stored=(h(1),), removed=(h(3),))])
        log.append([CacheDelta(0, removed=(h(2),))])
        log.append([CacheDelta(1, stored=(h(9),), tier=Tier.HOST)])
        # A snapshot is the state after the newest event, whatever waits to be told.
        newcomer = Watcher(log)
        async with aclosing(newcomer.stream):
            await newcomer.follow(1)
            assert newcomer.known() == first
            (tell,) = timers
            tell()
            for one in (watcher, newcomer):
                await one.follow(2)
                assert one.num_snapshots == 1
                assert one.known() == {(0, DEVICE): {h(1), h(4)}, (1, HOST): {h(9)}}


deltas = st.lists(
    st.builds(
        CacheDelta,
        group=st.integers(0, 1),
        stored=st.lists(st.integers(0, 6).map(h), max_size=3).map(tuple),
        removed=st.lists(st.integers(0, 6).map(h), max_size=3).map(tuple),
        tier=st.sampled_from([Tier.DEVICE, Tier.HOST]),
    ),
    max_size=4,
)


@given(st.lists(deltas, max_size=12), st.lists(st.integers(0, 11), max_size=6))
def test_watcher_always_agrees_with_the_cache(steps: list[Any], reads: list[int]) -> None:
    """Whenever the watcher reads, with a log too short to keep all: snapshot and deltas agree."""

    async def scenario() -> None:
        log = EventLog(EPOCH, max_deltas=3, chunk_hashes=2)
        truth: Held = {}
        num_events = 0
        watcher = Watcher(log)
        async with aclosing(watcher.stream):
            for number, step in enumerate(steps):
                log.append(step)
                num_events += bool(step)
                for delta in step:
                    tier = DEVICE if delta.tier is Tier.DEVICE else HOST
                    held = truth.setdefault((delta.group, tier), set())
                    held |= set(delta.stored)
                    held -= set(delta.removed)
                if number in reads:
                    await watcher.follow(num_events)
            await watcher.follow(num_events)
        assert watcher.known() == {place: held for place, held in truth.items() if held}

    asyncio.run(scenario())
