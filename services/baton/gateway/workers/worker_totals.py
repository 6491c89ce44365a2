"""What workers count since their start, as counters of this gateway's metrics."""

from __future__ import annotations

from collections.abc import Iterator

from baton.gateway.workers.worker_view import TIERS, WorkerView
from baton.telemetry.counter import Count
from baton.telemetry.metrics import Metrics
from baton.v1 import session_pb2

TIER_EVENTS = ("hits", "demotions", "drops", "failures")


class WorkerTotals:
    """Adds what was new in each load report; a worker's new life counts from 0."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Worker to its epoch and what its last report said, in the order of `_series`.
        self._seen: dict[str, tuple[int, list[int]]] = {}

    def add(self, view: WorkerView) -> None:
        """Count what a worker's newest report has and the one before had not."""
        if view.load is None:
            return
        worker, epoch = view.lease.worker.worker_id, view.lease.worker.epoch
        series = list(self._series(worker, view.load))
        seen_epoch, seen = self._seen.get(worker, (0, []))
        if seen_epoch != epoch or len(seen) != len(series):
            seen = [0] * len(series)
        for (counter, total), before in zip(series, seen, strict=True):
            counter.inc(max(0, total - before))
        self._seen[worker] = (epoch, [total for _, total in series])

    def forget(self, worker: str) -> None:
        """The worker is gone, and its series with it."""
        self._seen.pop(worker, None)

    def _series(self, worker: str, load: session_pb2.Load) -> Iterator[tuple[Count, int]]:
        metrics = self._metrics
        yield metrics.fetched_blocks.labels(worker), load.fetched_blocks
        if not load.tiers:
            return
        yield metrics.promoted_blocks.labels(worker), load.promotions
        yield metrics.promotion_timeouts.labels(worker), load.promotion_timeouts
        for tier in load.tiers:
            if (name := TIERS.get(tier.tier)) is None:
                continue
            for event in TIER_EVENTS:
                yield metrics.tier_blocks.labels(worker, name, event), getattr(tier, event)
