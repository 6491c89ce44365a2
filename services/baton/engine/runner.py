"""What the engine asks of whatever computes: `model_runner` (torch) or `mock`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from baton.core.kv import Arena, GroupSpec
from baton.engine.batch import Batch, SampledToken


@dataclass(frozen=True, slots=True)
class LayerPieces:
    """Asks a runner to say how far it is within a step.

    Piece p is the layers p * L // num_pieces up to (p + 1) * L // num_pieces of a group's L.
    `done(p)` is called on the runner's thread when the KV of piece p, for all tokens of the batch,
    is in memory, where a one-sided write may read it. Not for the last piece, whose end is the
    return of `run`.
    """

    num_pieces: int
    done: Callable[[int], None]


class Runner(Protocol):
    """A model with its KV memory. Owned by the engine's thread."""

    @property
    def groups(self) -> tuple[GroupSpec, ...]: ...

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Blocks in each group's arena; every one may be allocated."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    @property
    def identity(self) -> str:
        """Model identity, a part of the KV digest."""

    @property
    def rope(self) -> str:
        """Position encoding, a part of the KV digest."""

    def arenas(self) -> list[Arena]:
        """The KV memory, one entry per group. The same on every call."""

    def run(self, batch: Batch, pieces: LayerPieces | None = None) -> list[SampledToken]:
        """One forward pass, blocking: copies, then compute. Ends when the KV is in memory.

        Returns one SampledToken for each of `entry.samples`, entry by entry in order.
        """
