"""The prefix index in a gateway process whose sibling reads KV events for all (`kv_events`)."""

from __future__ import annotations

import asyncio

from baton.core.clock import Clock, monotonic
from baton.core.settings import RouterSettings
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_feed import hash_scope, indexed_group
from baton.gateway.workers.prefix_lookup import HashScopes, PrefixLookup
from baton.router.shared.index import IndexView, worker_key
from baton.router.shared.layers import LayeredIndex
from baton.v1 import common_pb2

# How often predictions that nobody asked about since are taken back.
TICK_S = 0.25


class KvIndexView:
    """Finds the fleet's workers in the shared index, from when they are up until they are gone."""

    def __init__(
        self, fleet: Fleet, settings: RouterSettings, shared: IndexView, clock: Clock = monotonic
    ) -> None:
        self._index = LayeredIndex(shared, settings.predicted_ttl_s)
        self._scopes = HashScopes()
        self.lookup = PrefixLookup(self._index, self._scopes, fleet.pool, clock)
        self._clock = clock
        self._ticker: asyncio.Task[None] | None = None
        fleet.on_worker_up = self._up
        fleet.on_worker_gone = self._gone

    def is_synced(self) -> bool:
        """The sibling has the snapshots of all workers that are up here."""
        return self._index.is_synced()

    def start(self) -> None:
        """Begin with what is to be done now and then."""
        self._ticker = asyncio.create_task(self._tick(), name="prefix index")

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    def _up(self, row: int, lease: common_pb2.WorkerLease) -> None:
        """A worker can be reached. It may be so again and again."""
        if self._scopes.of_row(row) is None and indexed_group(lease) is not None:
            worker = lease.worker
            self._scopes.add(row, lease.model, hash_scope(lease))
            self._index.add_worker(row, worker_key(worker.worker_id, worker.epoch))

    def _gone(self, row: int) -> None:
        """A worker's row is about to be another's."""
        if self._scopes.of_row(row) is not None:
            self._scopes.remove(row)
            self._index.remove_worker(row)

    async def _tick(self) -> None:
        while True:
            self._index.expire(self._clock())
            await asyncio.sleep(TICK_S)
