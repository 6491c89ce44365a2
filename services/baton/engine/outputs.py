"""What the engine says after a step, and the memory it lends to transfers. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from baton.core.errors import BatonError
from baton.core.request import FinishReason, TokenLogprobs

# The worker's name of a submission: (session id, slot). The engine only compares it.
Key = tuple[str, int]


class TokenRow(NamedTuple):
    """One generated token. `position` is its index in the choice's output.

    A named tuple because a step makes hundreds.
    """

    key: Key
    choice: int
    position: int
    token: int
    finish: FinishReason | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A submission got its first compute (or its KV was adopted)."""

    key: Key
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class BlocksReady:
    """Source side: these blocks, or a part of their layers, are final and may be sent.

    `block_ids[g]` are the block ids of group g for the offered indices from `first_index[g]` on.
    Of `num_parts` > 1, part p is the layers p * L // num_parts up to (p + 1) * L // num_parts of a
    group's L; the same blocks are reported once for each part, in order. With `done` the whole
    prompt is computed and the first tokens are sampled (in this step's rows).
    """

    key: Key
    first_index: tuple[int, ...]
    block_ids: tuple[tuple[int, ...], ...]
    done: bool
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class OfferDue:
    """Source side: time to offer this submission's blocks to its target.

    `hashes[g]` are the hashes of the full blocks of group g, `num_blocks[g]` counts all blocks, the
    partial tail included. `num_tokens` tokens will be computed, and `growth_tokens` more at most:
    those of a sequence that is moved while it decodes have room in `num_blocks`.
    """

    key: Key
    num_tokens: int
    hashes: tuple[tuple[bytes, ...], ...]
    num_blocks: tuple[int, ...]
    growth_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MoveStopped:
    """Source side: a sequence that is being moved computes no further, or has ended.

    The rest of its blocks as in BlocksReady, the hashes of the blocks that became full since its
    OfferDue, and `tokens`, its output that the target's submission does not have. With `finish` it
    ended with a token that is not among these, and there is nothing to hand over.
    """

    key: Key
    choice: int
    first_index: tuple[int, ...]
    block_ids: tuple[tuple[int, ...], ...]
    hashes: tuple[tuple[bytes, ...], ...]
    tokens: tuple[int, ...]
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Target side: where the offered blocks of one group go.

    `block_ids[i]` and `generations[i]` belong to offered index i; the indices in `skip` are in the
    prefix cache already and must not be written.
    """

    block_ids: tuple[int, ...]
    generations: tuple[int, ...]
    skip: frozenset[int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A submission cannot go on. Its resources are free again."""

    key: Key
    error: BatonError


class Tier(Enum):
    """Where a cached block is."""

    DEVICE = auto()
    HOST = auto()
    DISK = auto()


@dataclass(frozen=True, slots=True)
class CacheDelta:
    """Full blocks of one group that became reusable by others on a tier, or stopped being so."""

    group: int
    stored: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()
    tier: Tier = Tier.DEVICE


@dataclass(frozen=True, slots=True)
class TierLoad:
    """One lower tier; counts of blocks are since the start."""

    tier: Tier
    used_bytes: int
    capacity_bytes: int
    hits: int  # blocks found here, and nowhere higher, by sequences that waited for them
    demotions: int  # blocks copied here from the tier above
    drops: int  # blocks lost from the tier above before they were copied here
    failures: int  # copies that could not be written, or were not what they should be


@dataclass(slots=True)
class StepOutput:
    """Everything that one step changed."""

    rows: list[TokenRow] = field(default_factory=list)
    scheduled: list[Scheduled] = field(default_factory=list)
    offers: list[OfferDue] = field(default_factory=list)
    ready: list[BlocksReady] = field(default_factory=list)
    stopped: list[MoveStopped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    # Moves that came to nothing; their submissions go on here.
    unmoved: list[Failure] = field(default_factory=list)
    cache: list[CacheDelta] = field(default_factory=list)
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine is doing now."""

    num_waiting: int
    num_running: int
    queued_prefill_tokens: int
    free_blocks: int  # those held only as prefix cache included
    cached_blocks: int
    reserved_blocks: int
    quarantined_blocks: int
    queue_room: int  # submissions until about two steps' tokens wait; 0: send no more
    short_of_blocks: bool
    pinned_blocks: int = 0  # to be kept for a time; some may have left the device all the same
    fetched_blocks: int = 0  # from peers' caches, since the start
    promotions: int = 0  # blocks brought back from lower tiers since the start
    promotion_timeouts: int = 0  # sequences that stopped waiting for them
    tiers: tuple[TierLoad, ...] = ()
