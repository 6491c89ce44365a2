"""A worker as people, tools and metrics see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baton.router.columns import Role
from baton.telemetry.metrics import Metrics
from baton.v1 import common_pb2, events_pb2, session_pb2, worker_pb2

_LOAD_FIELDS = (
    "num_waiting",
    "num_running",
    "queued_prefill_tokens",
    "free_blocks",
    "cached_blocks",
    "reserved_blocks",
    "quarantined_blocks",
    "pinned_blocks",
    "fetched_blocks",
    "queue_room",
    "short_of_blocks",
    "prefill_tokens_per_s",
    "step_s",
    "promotions",
    "promotion_timeouts",
)
TIERS = {events_pb2.KV_TIER_HOST: "host", events_pb2.KV_TIER_DISK: "disk"}


def role_name(lease: common_pb2.WorkerLease) -> str:
    """prefill, decode or any."""
    return Role(lease.role).name.lower() if lease.role in Role._value2member_map_ else "unknown"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the gateway knows of one worker now; `reason` says why it gets no request."""

    lease: common_pb2.WorkerLease
    load: session_pb2.Load | None
    has_session: bool
    is_up: bool
    was_up: bool
    is_foreign: bool
    reason: str

    @property
    def state(self) -> str:
        """connecting, ready, draining, foreign (of another tokenizer), resuming (its stream broke)
        or lost.
        """
        if not self.has_session:
            return "lost"
        if not self.is_up:
            return "resuming" if self.was_up else "connecting"
        if self.is_draining:
            return "draining"
        return "foreign" if self.is_foreign else "ready"

    @property
    def is_draining(self) -> bool:
        """It said so last, whether it is up or not."""
        return self.load is not None and self.load.draining

    @property
    def links(self) -> Sequence[worker_pb2.PeerLink]:
        """The ways to its peers, as it last reported them."""
        return self.load.links if self.load is not None else ()

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
            load["tiers"] = [_describe_tier(t) for t in self.load.tiers if t.tier in TIERS]
        return {
            "id": lease.worker.worker_id,
            "role": role_name(lease),
            "model": lease.model,
            "state": self.state,
            "draining": self.is_draining,
            "revision": lease.revision,
            "reason": self.reason or self.unpaired_reason(views),
            "pid": lease.pid,
            "node": lease.node,
            "address": lease.worker.address,
            "epoch": f"{lease.worker.epoch:016x}",
            "digest": lease.digest,
            "transport": lease.transport,
            "build": lease.build,
            "load": load,
            "links": [_describe_link(link) for link in self.links],
        }


def _describe_tier(tier: session_pb2.TierLoad) -> dict[str, Any]:
    names = ("used_bytes", "capacity_bytes", "hits", "demotions", "drops", "failures")
    return {"tier": TIERS[tier.tier], **{name: getattr(tier, name) for name in names}}


def _describe_link(link: worker_pb2.PeerLink) -> dict[str, Any]:
    return {
        "peer": link.peer.worker_id,
        "transport": link.transport,
        "fabric": link.fabric,
        "bytes_per_s": link.bytes_per_s,
        "is_up": link.is_up,
    }


def export_gauges(metrics: Metrics, views: Sequence[WorkerView]) -> None:
    """Set the gauges of workers from what they last reported."""
    counts = Counter((role_name(view.lease), _metric_state(view)) for view in views)
    metrics.workers.clear()
    for labels, count in counts.items():
        metrics.workers.labels(*labels).set(count)
    metrics.digest_mismatches.set(sum(bool(view.unpaired_reason(views)) for view in views))
    metrics.peer_links.clear()
    metrics.peer_bandwidth.clear()
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
        for state in ("free", "cached", "reserved", "quarantined", "pinned"):
            metrics.kv_blocks.labels(worker, state).set(getattr(load, f"{state}_blocks"))
        _export_tiers(metrics, worker, load)
        _export_links(metrics, worker, load)


def _export_tiers(metrics: Metrics, worker: str, load: session_pb2.Load) -> None:
    for tier in load.tiers:
        name = TIERS.get(tier.tier)
        if name is None:
            continue
        metrics.tier_bytes.labels(worker, name, "used").set(tier.used_bytes)
        metrics.tier_bytes.labels(worker, name, "capacity").set(tier.capacity_bytes)


def _export_links(metrics: Metrics, worker: str, load: session_pb2.Load) -> None:
    for link in load.links:
        if link.is_up and link.fabric:
            metrics.peer_links.labels(worker, link.transport, link.fabric).inc()
        if link.is_up and link.bytes_per_s:
            labels = (worker, link.peer.worker_id, link.transport, link.fabric)
            metrics.peer_bandwidth.labels(*labels).set(link.bytes_per_s)


def _metric_state(view: WorkerView) -> str:
    return view.state if view.state in ("ready", "draining", "foreign") else "lost"
