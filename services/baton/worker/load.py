"""What a worker tells gateways about its load."""

from __future__ import annotations

from collections.abc import Sequence

from baton.engine.outputs import EngineLoad, StepOutput, Tier
from baton.v1 import events_pb2, session_pb2, worker_pb2

# Weight of the newest step in the moving averages; about the last 20 steps count.
_ALPHA = 0.1
_TIERS = {Tier.HOST: events_pb2.KV_TIER_HOST, Tier.DISK: events_pb2.KV_TIER_DISK}


class LoadMeter:
    """Turns engine loads into reports. Lives on the engine's thread."""

    def __init__(self) -> None:
        self._sequence_number = 0
        self._prefill_tokens = 0.0
        self._prefill_step_s = 0.0
        self._step_s = 0.0
        # Since the start.
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0

    def observe(self, output: StepOutput) -> None:
        """Take a step's measurements into the averages and the counts."""
        self.num_prompt_tokens += output.num_prefill_tokens
        self.num_generated_tokens += len(output.rows)
        if output.step_s <= 0:
            return
        if output.num_prefill_tokens:
            self._prefill_tokens = _average(self._prefill_tokens, output.num_prefill_tokens)
            self._prefill_step_s = _average(self._prefill_step_s, output.step_s)
        else:
            self._step_s = _average(self._step_s, output.step_s)

    @property
    def _prefill_tokens_per_s(self) -> float:
        return self._prefill_tokens / self._prefill_step_s if self._prefill_step_s else 0.0

    def report(
        self,
        load: EngineLoad,
        links: Sequence[worker_pb2.PeerLink],
        *,
        draining: bool,
        leaving_in_ms: int = 0,
    ) -> session_pb2.Load:
        """The engine's load now, numbered, and the ways to the worker's peers."""
        self._sequence_number += 1
        return session_pb2.Load(
            sequence_number=self._sequence_number,
            num_waiting=load.num_waiting,
            num_running=load.num_running,
            queued_prefill_tokens=load.queued_prefill_tokens,
            free_blocks=load.free_blocks,
            cached_blocks=load.cached_blocks,
            reserved_blocks=load.reserved_blocks,
            quarantined_blocks=load.quarantined_blocks,
            queue_room=load.queue_room,
            draining=draining,
            leaving_in_ms=leaving_in_ms,
            short_of_blocks=load.short_of_blocks,
            pinned_blocks=load.pinned_blocks,
            fetched_blocks=load.fetched_blocks,
            prefill_tokens_per_s=self._prefill_tokens_per_s,
            prefill_step_s=self._prefill_step_s,
            step_s=self._step_s,
            links=links,
            promotions=load.promotions,
            promotion_timeouts=load.promotion_timeouts,
            tiers=[
                session_pb2.TierLoad(
                    tier=_TIERS[tier.tier],
                    used_bytes=tier.used_bytes,
                    capacity_bytes=tier.capacity_bytes,
                    hits=tier.hits,
                    demotions=tier.demotions,
                    drops=tier.drops,
                    failures=tier.failures,
                )
                for tier in load.tiers
            ],
        )


def _average(old: float, new: float) -> float:
    return new if old == 0 else old + _ALPHA * (new - old)
