"""Keeps the prefix index true to the workers: one stream of KV events from each that is up.

Of a gateway's processes one does this for all; the others have a `KvIndexView`. Everything runs on
its event loop. A snapshot comes in chunks of a few thousand blocks, each applied in a few
milliseconds, with the loop's other work in between.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count

from baton.core.clock import Clock, monotonic
from baton.core.settings import RouterSettings
from baton.gateway.workers.fed_index import OwnIndex, SharedIndex
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_feed import Heard, KvFeed, hash_scope, indexed_group
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.router.prefix_index import IndexTier
from baton.router.shared.memory import SharedFile
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics
from baton.v1 import common_pb2, events_pb2
from baton.wire.streams.client import dial
from baton.wire.streams.methods import KV_EVENTS
from baton.wire.streams.status import StreamError
from baton.wire.streams.stream import Stream

log = logging.getLogger(__name__)

EventStream = Stream[events_pb2.KvEventsRequest, events_pb2.KvEventsResponse]
# Pauses before a stream that ended is opened again; the first goes for gaps, too.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
# How often predictions that nobody asked about since are taken back, ...
TICK_S = 0.25
# ... and after how many of those ticks the gauges follow the index.
TICKS_PER_EXPORT = 4


class _Followed:
    """One life of one worker."""

    def __init__(self, row: int, worker: common_pb2.WorkerRef, feed: KvFeed) -> None:
        self.row = row
        self.worker = worker
        self.feed = feed
        self.backoff_s = FIRST_BACKOFF_S
        self.task: asyncio.Task[None] | None = None


class KvIndexReader:
    """Keeps an index of a fleet's workers, from the moment that they are up until they are gone."""

    def __init__(
        self,
        fleet: Fleet,
        token: str,
        settings: RouterSettings,
        metrics: Metrics,
        clock: Clock = monotonic,
        share: SharedFile | None = None,
    ) -> None:
        """`share`: where siblings look up, too."""
        ttl_s = settings.predicted_ttl_s
        self._index = OwnIndex(ttl_s) if share is None else SharedIndex(share, ttl_s)
        # What workers say, for counting.
        self.exact = self._index.exact
        self._scopes = HashScopes()
        self.lookup = PrefixLookup(self._index.asked, self._scopes, fleet.pool, clock)
        self._token = token
        self._metrics = metrics
        self._clock = clock
        self._followed: dict[int, _Followed] = {}
        self._ticker: asyncio.Task[None] | None = None
        fleet.on_worker_up = self._up
        fleet.on_worker_gone = self._gone

    def is_synced(self) -> bool:
        """The snapshots of all workers that are up have come."""
        return all(followed.feed.is_synced for followed in self._followed.values())

    def start(self) -> None:
        """Begin with what is to be done now and then."""
        self._ticker = asyncio.create_task(self._tick(), name="prefix index")

    async def close(self) -> None:
        """End all streams."""
        tasks = [f.task for f in self._followed.values() if f.task is not None]
        if self._ticker is not None:
            tasks.append(self._ticker)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._followed.clear()

    def _up(self, row: int, lease: common_pb2.WorkerLease) -> None:
        """A worker can be reached. It may be so again and again."""
        if row in self._followed:
            return
        group = indexed_group(lease)
        if group is None:
            log.info(*event("worker_not_indexed", worker=lease.worker.worker_id))
            return
        worker = common_pb2.WorkerRef()
        worker.CopyFrom(lease.worker)
        followed = _Followed(row, worker, KvFeed(self._index.fed, row, group, worker.epoch))
        self._followed[row] = followed
        self._scopes.add(row, lease.model, hash_scope(lease))
        self._index.add_worker(row, worker)
        followed.task = asyncio.create_task(
            self._follow(followed), name=f"kv events {worker.worker_id}"
        )

    def _gone(self, row: int) -> None:
        """A worker's row is about to be another's."""
        followed = self._followed.pop(row, None)
        if followed is None:
            return
        assert followed.task is not None
        followed.task.cancel()
        self._scopes.remove(row)
        self._index.remove_worker(row)
        self._metrics.indexed_blocks.remove_by_labels({"worker": followed.worker.worker_id})

    async def _follow(self, followed: _Followed) -> None:
        worker_id = followed.worker.worker_id
        while True:
            try:
                async with dial(followed.worker.address, self._token, KV_EVENTS) as stream:
                    stream.send(followed.feed.request())
                    await self._read(stream, followed)
            except StreamError as error:
                log.info(*event("kv_events_lost", worker=worker_id, reason=error.details))
            except Exception:
                log.exception(*event("kv_events_failed", worker=worker_id))
                followed.feed.doubt()
                self._index.set_synced(followed.row, False)
            await asyncio.sleep(followed.backoff_s)
            followed.backoff_s = min(MAX_BACKOFF_S, 2 * followed.backoff_s)

    async def _read(self, stream: EventStream, followed: _Followed) -> None:
        """Apply what comes until the stream ends or leaves something out."""
        events = self._metrics.kv_events
        async for response in stream:
            heard = followed.feed.take(response)
            events.labels(heard.name.lower()).inc()
            if heard is Heard.DELTA:
                lag_s = followed.feed.lag_s(response.delta, self._clock())
                if lag_s is not None:
                    self._metrics.kv_event_lag.observe(lag_s)
            else:
                self._index.set_synced(followed.row, followed.feed.is_synced)
            if heard is Heard.GAP:
                log.warning(*event("kv_event_gap", worker=followed.worker.worker_id))
                return
            followed.backoff_s = FIRST_BACKOFF_S

    async def _tick(self) -> None:
        for tick in count():
            self._index.asked.expire(self._clock())
            if tick % TICKS_PER_EXPORT == 0:
                self._export()
            await asyncio.sleep(TICK_S)

    def _export(self) -> None:
        metrics = self._metrics
        metrics.index_keys.set(self.exact.num_keys)
        metrics.index_sets.set(self.exact.num_sets)
        for row, followed in self._followed.items():
            for tier, num_blocks in zip(IndexTier, self.exact.blocks_of(row), strict=True):
                gauge = metrics.indexed_blocks.labels(followed.worker.worker_id, tier.name.lower())
                gauge.set(num_blocks)
