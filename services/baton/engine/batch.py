"""One step's work, as the scheduler hands it to a runner. numpy only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from baton.core.request import SamplingParams, TokenLogprobs

Int32 = npt.NDArray[np.int32]


@dataclass(slots=True)
class SampleSpec:
    """How to draw one choice's next token.

    `position` is the token's index in the choice's output, hence also how many tokens `output`
    holds; `output` is what penalties count. It is the sequence's own list: read it during the run,
    do not keep it.
    """

    choice: int
    position: int
    seed: int
    params: SamplingParams
    output: Sequence[int]
    prompt_len: int


class BatchEntry(NamedTuple):
    """The tokens of one sequence to compute in this step.

    `token_ids` `[num_new]` are at positions `start ... start + num_new - 1`; the KV of all tokens
    before `start` is in the blocks already. `block_tables[g]` `[num_blocks]` covers at least
    `start + num_new` tokens of group g. With `sample`, the logits of the last token give one token
    for each of `samples`: several when a prompt forks into its choices here, else one; without it
    `samples` is empty.

    `sequence_id` is the sequence's for its life in this engine, and `history`
    `[start + num_new]` holds all its tokens up to the last of this step. Both are for runners that
    keep state; the arrays are views of the engine's own and valid during the run only.
    """

    token_ids: Int32
    start: int
    block_tables: tuple[Int32, ...]
    sample: bool
    samples: Sequence[SampleSpec]
    sequence_id: int
    history: Int32


class BlockCopy(NamedTuple):
    """Copy-on-write: make block `dst` of `group` equal to `src`."""

    group: int
    src: int
    dst: int


@dataclass(slots=True)
class Batch:
    """One forward pass.

    `copies` come before any compute, in order; a block is never the destination of two, and reading
    all sources before writing any destination is as good as doing them in order.
    """

    entries: list[BatchEntry]
    copies: list[BlockCopy] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return sum(len(entry.token_ids) for entry in self.entries)


class SampledToken(NamedTuple):
    """A runner's answer for one SampleSpec."""

    token: int
    logprobs: TokenLogprobs | None = None
