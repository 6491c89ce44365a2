"""What the engine says after a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from baton.core.errors import BatonError
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue
from baton.core.request import FinishReason, TokenLogprobs


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
