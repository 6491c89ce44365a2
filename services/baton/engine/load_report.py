"""What an engine says of its load, and how much more it wants to be sent."""

from __future__ import annotations

from baton.engine.block_manager import BlockManager
from baton.engine.fetches import Fetches
from baton.engine.outputs import EngineLoad
from baton.engine.pins import Pins
from baton.engine.reservations import Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.tiering import Tiering

# A worker's queue is bounded to about this many steps of its token budget; the rest waits in the
# gateway, where it can still be routed elsewhere.
QUEUED_STEPS = 2
# Weight of the newest prompt in the mean prompt length.
MEAN_WEIGHT = 0.1


class LoadReport:
    """Reads the engine's parts."""

    def __init__(
        self,
        blocks: BlockManager,
        scheduler: Scheduler,
        reservations: Reservations,
        pins: Pins,
        fetches: Fetches,
    ) -> None:
        self._blocks = blocks
        self._scheduler = scheduler
        self._reservations = reservations
        self._pins = pins
        self._fetches = fetches
        self._budget = scheduler.max_batch_tokens
        self._mean_prompt = self._budget / 4

    def saw_prompt(self, num_tokens: int) -> None:
        """A request has come."""
        self._mean_prompt += MEAN_WEIGHT * (num_tokens - self._mean_prompt)

    def load(self, tiering: Tiering | None) -> EngineLoad:
        """What the engine is doing now. Blocks are those of group 0, reserved ones of all."""
        scheduler, pool = self._scheduler, self._blocks.pools[0]
        waiting_tokens = sum(seq.num_tokens for seq in scheduler.waiting)
        running_tokens = sum(s.num_tokens - s.num_computed for s in scheduler.prefilling)
        return EngineLoad(
            num_waiting=len(scheduler.waiting),
            num_running=scheduler.num_running,
            queued_prefill_tokens=waiting_tokens + running_tokens,
            free_blocks=pool.num_free,
            cached_blocks=pool.cache.num_idle,
            reserved_blocks=self._reservations.num_reserved,
            quarantined_blocks=self._reservations.num_quarantined,
            queue_room=self._queue_room(waiting_tokens + running_tokens),
            short_of_blocks=scheduler.short_of_blocks,
            pinned_blocks=self._pins.num_kept(0),
            fetched_blocks=self._fetches.num_fetched,
            promotions=tiering.promotions.num_promoted if tiering is not None else 0,
            promotion_timeouts=tiering.promotions.num_timeouts if tiering is not None else 0,
            tiers=tiering.load() if tiering is not None else (),
        )

    def _queue_room(self, queued_tokens: int) -> int:
        scheduler = self._scheduler
        left = QUEUED_STEPS * self._budget - queued_tokens
        # Past the slots a few may wait, so that one that comes free is taken in the next step.
        slots = scheduler.max_sequences + max(1, scheduler.max_sequences // 8)
        slots -= scheduler.num_slots + len(scheduler.waiting)
        if left <= 0 or slots <= 0 or scheduler.short_of_blocks:
            return 0
        return min(slots, max(1, int(left / max(1.0, self._mean_prompt))))
