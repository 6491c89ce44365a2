"""What an engine and the transfer of its KV say to each other. Neither sees the other's package.

The *source* of a handoff is the worker that has the KV, its *target* the one that goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from baton.core.request import FinishReason

# The worker's name of a submission: (session id, slot). Engine and transfers only compare it.
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SourceOutput:
    """What a source generated for one choice, and why it ended there, if it did."""

    tokens: tuple[int, ...]
    finish: FinishReason | None


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
class BlocksReady:
    """Source side: these blocks, or a part of their layers, are final and may be sent.

    `block_ids[g]` are the block ids of group g for the offered indices from `first_index[g]` on.
    Of `num_parts` > 1, part p is the layers p * L // num_parts up to (p + 1) * L // num_parts of a
    group's L; the same blocks are reported once for each part, in order. With `done` the whole
    prompt is computed and the first tokens are sampled.
    """

    key: Key
    first_index: tuple[int, ...]
    block_ids: tuple[tuple[int, ...], ...]
    done: bool
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class MoveStopped:
    """Source side: a sequence that is being moved computes no further, or has ended.

    The rest of its blocks as in BlocksReady, the hashes of the blocks that became full since its
    OfferDue, and what it generated that the target's submission does not have. With a `finish` it
    ended with a token that is not among these, and there is nothing to hand over.
    """

    key: Key
    first_index: tuple[int, ...]
    block_ids: tuple[tuple[int, ...], ...]
    hashes: tuple[tuple[bytes, ...], ...]
    outputs: Mapping[int, SourceOutput]


@dataclass(frozen=True, slots=True)
class ReservedGroup:
    """Target side: where the offered blocks of one group go.

    `block_ids[i]` and `generations[i]` belong to offered index i; the indices in `skip` are in the
    prefix cache already and must not be written.
    """

    block_ids: tuple[int, ...]
    generations: tuple[int, ...]
    skip: frozenset[int]
