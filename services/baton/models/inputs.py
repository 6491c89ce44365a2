"""What one forward pass computes: a flattened batch of new tokens and where their KV goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from baton.models.rope import rope_tables
from baton_kernels import dispatch


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """New tokens of one sequence; `start` tokens of it are in KV already.

    `block_tables` holds one array of block ids per attention group, covering start and new tokens.
    """

    token_ids: np.ndarray
    start: int
    block_tables: Sequence[np.ndarray]
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class GroupInputs:
    """One attention group's view of the step."""

    block_ids: torch.Tensor  # [T] slot mapping: the block of each new token,
    offsets: torch.Tensor  # [T] and the slot in it
    plan: dispatch.AttentionPlan


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """Everything on the model's device. T new tokens, N of them wanting logits."""

    token_ids: torch.Tensor  # [T] int64
    cos: torch.Tensor  # [T, head_dim / 2]
    sin: torch.Tensor
    groups: tuple[GroupInputs, ...]
    logit_rows: torch.Tensor | None  # [N] rows of the batch; None: all, in order


def build_inputs(
    sequences: Sequence[SequenceInput],
    caches: Sequence[torch.Tensor],
    num_heads: int,
    inverse_frequencies: torch.Tensor,
) -> ForwardInputs:
    """Flatten the sequences, in order. `caches` has one layer's KV view per attention group."""
    device, dtype = caches[0].device, caches[0].dtype
    lens = [len(s.token_ids) for s in sequences]
    ends = np.cumsum(lens)
    positions = np.concatenate(
        [np.arange(s.start, s.start + n) for s, n in zip(sequences, lens, strict=True)]
    )
    rows = np.array(
        [end - 1 for s, end in zip(sequences, ends, strict=True) if s.wants_logits], dtype=np.int64
    )
    token_ids = np.concatenate([s.token_ids for s in sequences]).astype(np.int64)
    on_device = torch.from_numpy(positions).to(device)
    cos, sin = rope_tables(inverse_frequencies, on_device, dtype)
    seq_lens = [s.start + n for s, n in zip(sequences, lens, strict=True)]
    groups = []
    for g, cache in enumerate(caches):
        tables = [s.block_tables[g] for s in sequences]
        block_size = cache.shape[3]
        blocks = np.concatenate(
            [
                table[np.arange(s.start, end) // block_size]
                for table, s, end in zip(tables, sequences, seq_lens, strict=True)
            ]
        )
        groups.append(
            GroupInputs(
                torch.from_numpy(blocks.astype(np.int64)).to(device),
                torch.from_numpy(positions % block_size).to(device),
                dispatch.plan_attention(cache, num_heads, lens, seq_lens, tables),
            )
        )
    all_rows = len(rows) == len(positions)
    return ForwardInputs(
        torch.from_numpy(token_ids).to(device),
        cos,
        sin,
        tuple(groups),
        None if all_rows else torch.from_numpy(rows).to(device),
    )
