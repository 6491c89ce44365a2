"""A worker as people, tools and metrics see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baton.router.pool import Role
from baton.telemetry.metrics import Metrics
from baton.v1 import common_pb2, session_pb2

_LOAD_FIELDS = (
    "num_waiting",
    "num_running",
    "queued_prefill_tokens",
    "free_blocks",
    "cached_blocks",
    "reserved_blocks",
    "quarantined_blocks",
    "queue_room",
    "short_of_blocks",
    "prefill_tokens_per_s",
    "step_s",
)


def role_name(lease: common_pb2.WorkerLease) -> str:
    """prefill, decode or any."""
    return Role(lease.role).name.lower() if lease.role in Role._value2member_map_ else "unknown"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the gateway knows of one worker now; `reason` says why it is not up."""

    lease: common_pb2.WorkerLease
    load: session_pb2.Load | None
    has_session: bool
    is_up: bool
    was_up: bool
    reason: str

    @property
    def state(self) -> str:
        """connecting, ready, draining, resuming (its stream broke) or lost."""
        if not self.has_session:
            return "lost"
        if not self.is_up:
            return "resuming" if self.was_up else "connecting"
        return "draining" if self.load is not None and self.load.draining else "ready"

    def unpaired_reason(self, views: Sequence[WorkerView]) -> str:
        """Why no worker of the other role can exchange KV with this one; empty when one can."""
        lease = self.lease
        other = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}.get(lease.role)  # type: ignore[call-overload]
        if other is None or not self.is_up:
            return ""
        digests = {
            view.lease.digest
            for view in views
            if view.is_up and view.lease.role == other and view.lease.model == lease.model
        }
        if not digests or lease.digest in digests:
            return ""
        return (
            f"no {other.name.lower()} worker has its KV digest: model files, --dtype and "
            "--block-size must be the same on both"
        )

    def describe(self, views: Sequence[WorkerView]) -> dict[str, Any]:
        """A JSON-ready record. The epoch is in hex: JSON readers round 64-bit numbers."""
        lease = self.lease
        load: dict[str, Any] = {"num_blocks": lease.capacity.num_blocks}
        if self.load is not None:
            load |= {name: getattr(self.load, name) for name in _LOAD_FIELDS}
        return {
            "id": lease.worker.worker_id,
            "role": role_name(lease),
            "model": lease.model,
            "state": self.state,
            "reason": self.reason or self.unpaired_reason(views),
            "pid": lease.pid,
            "node": lease.node,
            "address": lease.worker.address,
            "epoch": f"{lease.worker.epoch:016x}",
            "digest": lease.digest,
            "transport": lease.transport,
            "build": lease.build,
            "load": load,
        }


def export_gauges(metrics: Metrics, views: Sequence[WorkerView]) -> None:
    """Set the gauges of workers from what they last reported."""
    counts = Counter((role_name(view.lease), _metric_state(view)) for view in views)
    metrics.workers.clear()
    for labels, count in counts.items():
        metrics.workers.labels(*labels).set(count)
    metrics.digest_mismatches.set(sum(bool(view.unpaired_reason(views)) for view in views))
    for view in views:
        load = view.load
        if load is None:
            continue
        worker = view.lease.worker.worker_id
        metrics.running.labels(worker).set(load.num_running)
        metrics.waiting.labels(worker).set(load.num_waiting)
        metrics.queued_prefill_tokens.labels(worker).set(load.queued_prefill_tokens)
        metrics.prefill_rate.labels(worker).set(load.prefill_tokens_per_s)
        metrics.step.labels(worker).set(load.step_s)
        for state in ("free", "cached", "reserved", "quarantined"):
            metrics.kv_blocks.labels(worker, state).set(getattr(load, f"{state}_blocks"))


def _metric_state(view: WorkerView) -> str:
    return view.state if view.state in ("ready", "draining") else "lost"
