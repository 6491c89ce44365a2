"""The workers that this gateway knows: found in the store, alive as long as their streams.

The store is for discovery, the stream is for liveness. A lease that expires does not end a worker
whose stream lives; a worker whose stream is lost is tried again while its lease stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, NotFoundError, UnavailableError
from baton.core.settings import GatewaySettings
from baton.gateway.workers import steering
from baton.gateway.workers.load_check import repair
from baton.gateway.workers.session import Loss, WorkerSession
from baton.gateway.workers.worker_totals import WorkerTotals
from baton.gateway.workers.worker_view import WorkerView, export_gauges, role_name
from baton.router.pool import Pool
from baton.router.shortage import shortage
from baton.store.base import Store, WatchEvent
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics
from baton.v1 import common_pb2, session_pb2
from baton.wire.version import PROTOCOL_MAX, PROTOCOL_MIN, common_version

log = logging.getLogger(__name__)

PREFIX = "workers/"
# Waits before a lost worker whose lease stays is tried again.
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 5.0
# How often the gauges of workers follow their reports.
GAUGES_S = 1.0
STORE_CHECK_S = 5.0
# In a rollout to another revision of the model.
FOREIGN = "its tokenizer is another one: gateways that have it give it requests, this one does not"


class Known:
    """One life of one worker, as the gateway knows it."""

    def __init__(self, lease: common_pb2.WorkerLease) -> None:
        self.lease = lease
        # The store has its lease.
        self.is_leased = True
        self.session: WorkerSession | None = None
        self.row: int | None = None
        self.was_up = False
        # Its loss has been told; tries to reach it again that fail are no news.
        self.is_lost = False
        self.load: session_pb2.Load | None = None
        # It has reported what cannot be; that is told once.
        self.is_doubted = False
        # Its token ids stand for other texts than the gateway's: it gets no request.
        self.is_foreign = False
        # Why it is not up, or gets no request.
        self.reason = ""
        self.backoff_s = FIRST_BACKOFF_S
        self.retry: asyncio.TimerHandle | None = None


class Fleet:
    """Watches the store, holds a session with each worker, and keeps the router's pool.

    `on_room` is called whenever a request that waits may find a place, `on_strain` when a worker
    reports that it drains or lacks blocks. `on_worker_up` hears of each stream that opens, for the
    first time or again, `on_worker_gone` of each row that is about to be another worker's.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        token: str,
        settings: GatewaySettings,
        metrics: Metrics,
        clock: Clock = monotonic,
        *,
        tokenizer: str,
    ) -> None:
        """`tokenizer`: the identity of the gateway's own; empty: whatever workers have."""
        self.pool = pool
        self.on_room: Callable[[], None] = lambda: None
        self.on_strain: Callable[[], None] = lambda: None
        self.on_worker_up: Callable[[int, common_pb2.WorkerLease], None] = lambda row, lease: None
        self.on_worker_gone: Callable[[int], None] = lambda row: None
        # Row to the instant at which its worker goes away, where that is known.
        self.leaves_at: dict[int, float] = {}
        # Models of all workers that ever came.
        self.models_seen: set[str] = set()
        self._store = store
        self._token = token
        self._tokenizer = tokenizer
        self._window_s = settings.resume_window_s
        self._metrics = metrics
        self._totals = WorkerTotals(metrics)
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._by_row: dict[int, Known] = {}
        self._by_session: dict[WorkerSession, Known] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # Workers that were there when the store answered first; None before.
        self._found_at_start: frozenset[str] | None = None
        # Why the store did not answer when it was asked last.
        self._store_problem: str | None = None

    # --- life ---

    def start(self) -> None:
        """Begin to look for workers."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="fleet watch"),
            asyncio.create_task(self._refresh_gauges(), name="fleet gauges"),
            asyncio.create_task(self._ask_store(), name="fleet store check"),
        ]

    async def close(self) -> None:
        """End all streams. The dispatcher has ended its requests before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for known in self._known.values():
            if known.retry is not None:
                known.retry.cancel()
        sessions = [k.session for k in self._known.values() if k.session is not None]
        await asyncio.gather(*(session.close() for session in sessions))
        self._known.clear()

    # --- what others ask ---

    def session(self, row: int) -> WorkerSession:
        """The session behind a row of the pool."""
        session = self._by_row[row].session
        assert session is not None, "a row lives as long as its session"
        return session

    def is_ready(self, model: str) -> bool:
        """Someone can generate for this model now."""
        return any(len(group.generating) for group in self.pool.groups(model))

    def num_missing_from_start(self) -> int | None:
        """Workers found at the start that are still to come up; None while nobody knows which.

        One that was tried in vain, or has left, is not waited for.
        """
        if self._found_at_start is None:
            return None
        known = (self._known.get(worker_id) for worker_id in self._found_at_start)
        return sum(one is not None and one.session is not None and not one.was_up for one in known)

    def shortage(self, model: str) -> str:
        """Why a request for this model waits, for people."""
        if model in self.models_seen:
            known = self._by_row.items()
            reason = shortage(self.pool, model, [row for row, one in known if one.is_foreign])
        else:
            reason = f"no worker for model {model!r} has registered"
        problem = self._store_problem
        return reason if problem is None else f"{reason}, nor can one be found: {problem}"

    def workers(self) -> list[dict[str, Any]]:
        """All known workers, for people and tools."""
        views = self._views()
        return [view.describe(views) for view in views]

    # --- Steering ---

    async def drain(self, worker_id: str, within_s: float, reason: str) -> int:
        """See `steering.Steering`."""
        return await steering.drain(self._reachable(worker_id), within_s, reason)

    async def undrain(self, worker_id: str) -> None:
        """See `steering.Steering`."""
        await steering.undrain(self._reachable(worker_id))

    def _reachable(self, worker_id: str) -> WorkerSession:
        known = self._known.get(worker_id)
        if known is None:
            raise NotFoundError(f"no worker {worker_id[:200]!r} is known; see /v1/baton/workers")
        if known.session is None:
            raise UnavailableError(f"worker {worker_id} does not answer")
        return known.session

    # --- for people and tools ---

    def _views(self) -> list[WorkerView]:
        return [
            WorkerView(
                lease=known.lease,
                load=known.load,
                has_session=known.session is not None,
                is_up=known.session is not None and known.session.is_up,
                was_up=known.was_up,
                is_foreign=known.is_foreign,
                reason=known.reason,
            )
            for _, known in sorted(self._known.items())
        ]

    # --- the store ---

    async def _watch(self) -> None:
        async for change in self._store.watch(PREFIX):
            try:
                self._apply(change)
            except Exception:
                # One worker's odd entry must not hide all others.
                log.exception(*event("bad_lease", key=change.key))

    def _apply(self, change: WatchEvent) -> None:
        worker_id = change.key.removeprefix(PREFIX)
        if change.kind == "put":
            lease = common_pb2.WorkerLease.FromString(change.value)
            worker = lease.worker
            if worker.worker_id != worker_id or not worker.epoch or not worker.address:
                log.error(*event("bad_lease", key=change.key))
                return
            self._take_lease(worker_id, lease)
        elif change.kind == "deleted":
            self._forget(worker_id, Loss("left", "the worker left"))
        elif change.kind == "expired":
            self._expired(worker_id)
        elif self._found_at_start is None:
            self._found_at_start = frozenset(self._known)

    def _take_lease(self, worker_id: str, lease: common_pb2.WorkerLease) -> None:
        known = self._known.get(worker_id)
        if known is not None and known.lease.worker.epoch != lease.worker.epoch:
            self._forget(worker_id, Loss("restarted", "the worker was restarted"))
            known = None
        if known is None:
            known = self._known[worker_id] = Known(lease)
            self.models_seen.add(lease.model)
            self._connect(known)
            return
        known.lease = lease
        known.is_leased = True
        if known.row is not None:
            self.pool.update(known.row, lease)
            self.on_room()

    def _expired(self, worker_id: str) -> None:
        known = self._known.get(worker_id)
        if known is None:
            return
        known.is_leased = False
        if known.session is None:
            self._forget(worker_id, Loss("silent", "the lease expired"))

    def _forget(self, worker_id: str, loss: Loss) -> None:
        known = self._known.pop(worker_id, None)
        if known is None:
            return
        known.is_leased = False
        if known.retry is not None:
            known.retry.cancel()
        if known.session is not None:
            known.session.drop(loss)
        self._metrics.forget_worker(worker_id)
        self._totals.forget(worker_id)

    def _connect(self, known: Known) -> None:
        lease = known.lease
        known.retry = known.load = None
        known.was_up = False
        if common_version(lease.protocol_min, lease.protocol_max) is None:
            known.reason = (
                f"speaks protocols {lease.protocol_min} to {lease.protocol_max}, this gateway "
                f"{PROTOCOL_MIN} to {PROTOCOL_MAX}: run one version of baton"
            )
            return
        worker = common_pb2.WorkerRef()
        worker.CopyFrom(lease.worker)
        session = WorkerSession(worker, self._token, self, self._window_s, self._clock)
        known.session = session
        known.row = self.pool.add(lease)
        self._by_row[known.row] = known
        self._by_session[session] = known
        session.start()

    # --- what sessions say (SessionOwner) ---

    def on_up(self, session: WorkerSession) -> None:
        known = self._by_session[session]
        assert known.row is not None
        known.is_foreign = self._is_foreign(known.lease)
        known.reason = FOREIGN if known.is_foreign else ""
        known.was_up = True
        known.is_lost = False
        known.backoff_s = FIRST_BACKOFF_S
        if known.is_foreign:
            # It can be drained, and its load be seen; its row stays down.
            log.info(*event("worker_foreign", worker=session.worker.worker_id, reason=FOREIGN))
            return
        self.pool.set_up(known.row, True)
        log.info(*event("worker_up", worker=session.worker.worker_id))
        self.on_worker_up(known.row, known.lease)
        self.on_room()

    def _is_foreign(self, lease: common_pb2.WorkerLease) -> bool:
        return bool(self._tokenizer and lease.tokenizer) and lease.tokenizer != self._tokenizer

    def on_down(self, session: WorkerSession, reason: str) -> None:
        known = self._by_session[session]
        assert known.row is not None
        known.reason = reason
        self.pool.set_up(known.row, False)

    def on_gone(self, session: WorkerSession, loss: Loss) -> None:
        known = self._by_session.pop(session)
        assert known.row is not None
        worker_id = session.worker.worker_id
        if not known.is_lost:
            known.is_lost = True
            log.warning(*event("worker_lost", worker=worker_id, reason=loss.reason))
            self._metrics.worker_losses.labels(role_name(known.lease), loss.cause).inc()
        del self._by_row[known.row]
        self.leaves_at.pop(known.row, None)
        self.on_worker_gone(known.row)
        self.pool.remove(known.row)
        known.session = known.row = None
        known.reason = loss.reason
        if known.is_leased:
            known.retry = asyncio.get_running_loop().call_later(
                known.backoff_s, self._connect, known
            )
            known.backoff_s = min(MAX_BACKOFF_S, known.backoff_s * 2)
        elif self._known.get(worker_id) is known:
            self._forget(worker_id, loss)

    def on_load(self, session: WorkerSession, load: session_pb2.Load) -> None:
        known = self._by_session.get(session)
        if known is None or known.row is None:
            return
        if known.load is not None and load.sequence_number <= known.load.sequence_number:
            return
        wrong = repair(load, known.lease.capacity)
        if wrong and not known.is_doubted:
            known.is_doubted = True
            worker_id = session.worker.worker_id
            log.warning(*event("worker_load_repaired", worker=worker_id, fields=wrong))
        known.load = load
        self.pool.report(known.row, load)
        self.leaves_at.pop(known.row, None)
        if load.draining and load.leaving_in_ms:
            self.leaves_at[known.row] = self._clock() + load.leaving_in_ms / 1000
        self.on_room()
        if load.draining or load.short_of_blocks:
            self.on_strain()

    # --- metrics ---

    async def _refresh_gauges(self) -> None:
        while True:
            views = self._views()
            export_gauges(self._metrics, views)
            for view in views:
                self._totals.add(view)
            await asyncio.sleep(GAUGES_S)

    async def _ask_store(self) -> None:
        """A watch hides outages, so ask for something now and then."""
        while True:
            try:
                await self._store.get(PREFIX + "none")
            except BatonError as error:
                self._store_problem = error.message
                self._metrics.store_up.set(0)
            else:
                self._store_problem = None
                self._metrics.store_up.set(1)
            await asyncio.sleep(STORE_CHECK_S)
