"""From a worker's parts to what its /metrics shows."""

from __future__ import annotations

import baton
from baton.telemetry.worker_metrics import TierReading, WorkerReading
from baton.v1 import events_pb2, session_pb2
from baton.worker import health
from baton.worker.config import WorkerConfig
from baton.worker.health import Vitals
from baton.worker.lifecycle import WorkerState
from baton.worker.load import LoadMeter
from baton.worker.start_progress import StartProgress

_TIERS = {events_pb2.KV_TIER_HOST: "host", events_pb2.KV_TIER_DISK: "disk"}


def read_metrics(
    vitals: Vitals,
    config: WorkerConfig,
    progress: StartProgress,
    meter: LoadMeter,
    load: session_pb2.Load | None,
) -> WorkerReading:
    """One moment of a worker. `load` is its newest report; None before the first."""
    blocks = {} if load is None else _blocks(load)
    load = load or session_pb2.Load()
    beat = vitals.heartbeat
    return WorkerReading(
        labels={
            "worker": config.worker_id,
            "role": config.role,
            "model": config.model_name,
            "revision": config.settings.worker.revision or "",
            "version": baton.__version__,
        },
        started=health.started(vitals).ok,
        ready=health.ready(vitals).ok,
        draining=vitals.state in (WorkerState.DRAINING, WorkerState.LEAVING),
        start_s={stage.value: seconds for stage, seconds in progress.took_s.items()},
        heartbeat_age_s=None if beat is None else beat.age_s,
        num_steps=0 if beat is None else beat.num_steps,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_generated_tokens=meter.num_generated_tokens,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        queued_prefill_tokens=load.queued_prefill_tokens,
        queue_room=load.queue_room,
        step_s=load.step_s,
        kv_blocks=blocks,
        tiers=tuple(
            TierReading(
                _TIERS[tier.tier],
                tier.used_bytes,
                tier.capacity_bytes,
                {
                    "hits": tier.hits,
                    "demotions": tier.demotions,
                    "drops": tier.drops,
                    "failures": tier.failures,
                },
            )
            for tier in load.tiers
        ),
    )


def _blocks(load: session_pb2.Load) -> dict[str, int]:
    return {
        "free": load.free_blocks,
        "cached": load.cached_blocks,
        "reserved": load.reserved_blocks,
        "quarantined": load.quarantined_blocks,
        "pinned": load.pinned_blocks,
    }
