"""What the worker's prefix cache holds, told to routers: a snapshot, then numbered deltas.

Everything here runs on the worker's asyncio loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence

from baton.engine.outputs import CacheDelta, Tier
from baton.v1 import events_pb2
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import Stream

Response = events_pb2.KvEventsResponse
Watcher = Stream[Response, events_pb2.KvEventsRequest]

# A group and a tier.
Place = tuple[int, Tier]

_TIERS = {
    Tier.DEVICE: events_pb2.KV_TIER_DEVICE,
    Tier.HOST: events_pb2.KV_TIER_HOST,
    Tier.DISK: events_pb2.KV_TIER_DISK,
}
# Deltas kept for watchers that fell behind; beyond it they are sent a snapshot.
MAX_DELTAS = 4096
# Hashes in one piece of a snapshot (64 KiB).
CHUNK_HASHES = 4096
# A worker that changes its cache with every step tells so in batches: an event costs a gateway more
# than a frame of tokens does, and routers expect what they have placed before it is confirmed.
MIN_GAP_S = 0.1


class EventLog:
    """EventsService, fed by `append` after every engine step that changed the cache.

    It mirrors the cache's hashes by applying the deltas to sets of its own, so that a snapshot is
    exactly the state after the newest delta and never asks the engine's thread.
    """

    def __init__(
        self,
        epoch: int,
        min_gap_s: float = 0.0,
        max_deltas: int = MAX_DELTAS,
        chunk_hashes: int = CHUNK_HASHES,
    ) -> None:
        """Events are at least `min_gap_s` apart."""
        self._epoch = epoch
        self._min_gap_s = min_gap_s
        self._chunk_hashes = chunk_hashes
        self._deltas: deque[events_pb2.KvDelta] = deque(maxlen=max_deltas)
        self._held: dict[Place, set[bytes]] = {}
        self._last_id = 0
        self._news = asyncio.Event()
        # What the next event will say, and the timer for it.
        self._stored: dict[Place, dict[bytes, None]] = {}
        self._removed: dict[Place, dict[bytes, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = -math.inf
        # When the first change came that no event has told.
        self._changed_at = 0.0

    def append(self, deltas: Sequence[CacheDelta]) -> None:
        """Take what changed in one step, in order: as one event, or as a part of the next one."""
        for delta in deltas:
            place = (delta.group, delta.tier)
            stored = self._stored.setdefault(place, {})
            removed = self._removed.setdefault(place, {})
            # Within an event the order is lost, so a hash may be in one of its lists only.
            for block_hash in delta.stored:
                removed.pop(block_hash, None)
                stored[block_hash] = None
            for block_hash in delta.removed:
                stored.pop(block_hash, None)
                removed[block_hash] = None
        if not deltas or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        self._changed_at = loop.time()
        wait_s = self._told_at + self._min_gap_s - loop.time()
        if wait_s > 0:
            self._timer = loop.call_later(wait_s, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        """Make an event of what has come together."""
        self._timer = None
        self._told_at = asyncio.get_running_loop().time()
        stored, self._stored = self._stored, {}
        removed, self._removed = self._removed, {}
        for place, hashes in stored.items():
            held = self._held.setdefault(place, set())
            held.update(hashes)
            held.difference_update(removed[place])
        self._last_id += 1
        self._deltas.append(
            events_pb2.KvDelta(
                event_id=self._last_id,
                stored=_blocks(stored),
                removed=_blocks(removed),
                changed_at_us=int(self._changed_at * 1e6),
            )
        )
        # Wake every watcher; those that wait later wait for the next event.
        self._news.set()
        self._news = asyncio.Event()

    async def serve(self, watcher: Watcher) -> None:
        """Tell of the cache until the caller goes away."""
        request = await watcher.read()
        if request is None:
            raise StreamError(Code.INVALID_ARGUMENT, "no request came")
        seen: int | None = request.after_event_id
        if request.worker_epoch != self._epoch or not 0 < request.after_event_id <= self._last_id:
            seen = None
        while True:
            await watcher.writable()
            if seen is None or self._has_gap(seen):
                at = self._last_id
                for chunk in self._snapshot(at):
                    watcher.send(Response(worker_epoch=self._epoch, snapshot=chunk))
                    await watcher.writable()
                    # Tokens have their turn between two chunks, however fast the watcher reads.
                    await asyncio.sleep(0)
                seen = at
            elif seen < self._last_id:
                first = self._deltas[0].event_id
                delta = self._deltas[seen + 1 - first]
                watcher.send(Response(worker_epoch=self._epoch, delta=delta))
                seen = delta.event_id
            else:
                await self._news.wait()

    def _has_gap(self, seen: int) -> bool:
        """A watcher that fell behind the kept deltas starts again from a snapshot."""
        return seen < self._last_id and seen + 1 < self._deltas[0].event_id

    def _snapshot(self, at: int) -> Iterator[events_pb2.KvSnapshotChunk]:
        """The state now, copied before the first chunk is sent; the last chunk may be empty."""
        step = self._chunk_hashes
        pieces = [
            {place: dict.fromkeys(hashes[i : i + step])}
            for place, hashes in ((p, list(held)) for p, held in self._held.items())
            for i in range(0, len(hashes), step)
        ] or [{}]
        for number, piece in enumerate(pieces, 1):
            yield events_pb2.KvSnapshotChunk(
                event_id=at, last=number == len(pieces), blocks=_blocks(piece)
            )


def _blocks(places: dict[Place, dict[bytes, None]]) -> list[events_pb2.KvBlocks]:
    return [
        events_pb2.KvBlocks(group=group, tier=_TIERS[tier], hashes=b"".join(hashes))
        for (group, tier), hashes in places.items()
        if hashes
    ]
