"""A prompt that is about to come: bring up what lower tiers have of it, pin what is here."""

from __future__ import annotations

from baton.engine.block_manager import BlockManager
from baton.engine.pins import Pins
from baton.engine.promotions import Promotions
from baton.engine.sequence import Sequence


def prefetch(
    seq: Sequence, blocks: BlockManager, pins: Pins, promotions: Promotions | None, now: float
) -> bool:
    """`seq` is a sequence of the prompt that is never run; its request says for how long to pin.

    False when too many prompts have their blocks brought up already.
    """
    ttl_s = seq.submission.request.cache_ttl_s
    limit = seq.num_tokens - 1
    num_tokens, _ = blocks.longest_prefix(seq.hashes, limit)
    promoted = 0 if promotions is None else promotions.hint(seq, now)
    num_tokens = max(num_tokens, promoted or 0)
    if ttl_s > 0:
        for group, spec in enumerate(blocks.groups):
            pins.pin(group, seq.hashes[group][: num_tokens // spec.block_size], now + ttl_s)
    return promoted is not None
