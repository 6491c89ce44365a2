# Triton types kernels itself.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Causal attention over paged KV; formula and shapes in `reference.paged_attention`.

One program computes a tile: some new tokens of one sequence, for all query heads that share one KV
head, with the running maximum and sum of FlashAttention (Dao, https://arxiv.org/abs/2307.08691).
Decode steps are tiles of one token. For a tile whose last token is at position p it reads
2 * (p + 1) * D elements of KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from baton_kernels.ops.wide import wide_type

# Rows (tokens x grouped heads) of a prefill tile, and keys of one step of its loop.
PREFILL_ROWS = 64
KEYS = 32
# Tensor cores multiply no smaller tiles.
MIN_SIDE = 16


@dataclass(frozen=True, slots=True)
class _Launch:
    """Tiles of one shape; `rows` is their padded number of rows."""

    sequences: torch.Tensor  # [num_tiles] int32: which sequence
    firsts: torch.Tensor  # [num_tiles] int32: its first token among the sequence's new ones
    num_queries: int
    rows: int


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The shape of one step, on the device."""

    launches: tuple[_Launch, ...]
    query_starts: torch.Tensor  # [B + 1] int32
    seq_lens: torch.Tensor  # [B] int32
    block_tables: torch.Tensor  # [B, max_blocks] int32


@triton.jit
def _paged_attention_kernel(
    q_ptr,  # [T, Hkv * GROUP, dim], strides (q_token_stride, q_head_stride, 1)
    cache_ptr,  # [num_blocks, Hkv, 2, block_size, dim], strides (cache_block_stride, ..., dim, 1)
    out_ptr,  # [T, Hkv * GROUP, dim] contiguous
    sequences_ptr,  # [num_tiles]
    firsts_ptr,  # [num_tiles]
    query_starts_ptr,  # [B + 1]
    seq_lens_ptr,  # [B]
    block_tables_ptr,  # [B, max_blocks] contiguous
    q_token_stride,
    q_head_stride,
    cache_block_stride,
    max_blocks,
    scale,
    dim,
    block_size,
    NUM_QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(1) * GROUP
    sequence = tl.load(sequences_ptr + tile)
    first = tl.load(firsts_ptr + tile)
    query_start = tl.load(query_starts_ptr + sequence)
    query_len = tl.load(query_starts_ptr + sequence + 1) - query_start
    seq_len = tl.load(seq_lens_ptr + sequence)

    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    query = first + rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    row_inside = (rows < NUM_QUERIES * GROUP) & (query < query_len)
    inside = row_inside[:, None] & (columns < dim)[None, :]
    token = (query_start + query).to(tl.int64)
    position = seq_len - query_len + query
    q = tl.load(
        q_ptr + (token * q_token_stride + head * q_head_stride)[:, None] + columns[None, :],
        mask=inside,
        other=0.0,
    )

    best = tl.full([BLOCK_M], float("-inf"), WIDE)
    total = tl.zeros([BLOCK_M], WIDE)
    acc = tl.zeros([BLOCK_M, BLOCK_D], WIDE)
    num_keys = seq_len - query_len + tl.minimum(first + NUM_QUERIES, query_len)
    plane = block_size * dim
    for start in range(0, num_keys, BLOCK_S):
        keys = start + tl.arange(0, BLOCK_S)
        key_inside = keys < num_keys
        block = tl.load(
            block_tables_ptr + sequence.to(tl.int64) * max_blocks + keys // block_size,
            mask=key_inside,
            other=0,
        ).to(tl.int64)
        slot = block * cache_block_stride + kv_head * 2 * plane + (keys % block_size) * dim
        kv_inside = key_inside[:, None] & (columns < dim)[None, :]
        k_ptr = cache_ptr + slot[:, None] + columns[None, :]
        k = tl.load(k_ptr, mask=kv_inside, other=0.0)
        v = tl.load(k_ptr + plane, mask=kv_inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=WIDE) * scale
        visible = (keys[None, :] <= position[:, None]) & key_inside[None, :]
        scores = tl.where(visible, scores, float("-inf"))
        # Key 0 is visible to every row, so that after the first step `best` is finite.
        new_best = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_best[:, None])
        decay = tl.exp(best - new_best)
        total = total * decay + tl.sum(weights, axis=1)
        acc = acc * decay[:, None]
        acc += tl.dot(weights.to(v.dtype), v, input_precision="ieee", out_dtype=WIDE)
        best = new_best

    out = acc / total[:, None]
    out_row = (token * num_heads + head) * dim
    out_ptrs = out_ptr + out_row[:, None] + columns[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=inside)


def plan_attention(
    kv_cache: torch.Tensor,
    num_q_heads: int,
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    block_tables: Sequence[np.ndarray],
) -> AttentionPlan:
    """Cut the batch into tiles; arguments as in `reference.paged_attention`."""
    device, block_size = kv_cache.device, kv_cache.shape[3]
    group = num_q_heads // kv_cache.shape[1]
    per_tile = max(1, PREFILL_ROWS // group)
    decodes = [(i, 0) for i, num in enumerate(query_lens) if num == 1]
    chunks = [
        (i, first)
        for i, num in enumerate(query_lens)
        if num > 1
        for first in range(0, num, per_tile)
    ]
    launches = []
    for tiles, num_queries in ((decodes, 1), (chunks, per_tile)):
        if tiles:
            sequences, firsts = torch.tensor(tiles, dtype=torch.int32).to(device).unbind(1)
            rows = max(MIN_SIDE, triton.next_power_of_2(num_queries * group))
            launches.append(_Launch(sequences.contiguous(), firsts.contiguous(), num_queries, rows))
    num_blocks = [-(-n // block_size) for n in seq_lens]
    tables = np.zeros((len(seq_lens), max(num_blocks)), dtype=np.int32)
    for row, table, num in zip(tables, block_tables, num_blocks, strict=True):
        row[:num] = table[:num]
    starts = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    return AttentionPlan(
        tuple(launches),
        torch.from_numpy(starts).to(device),
        torch.tensor(list(seq_lens), dtype=torch.int32).to(device),
        torch.from_numpy(tables).to(device),
    )


def paged_attention(
    q: torch.Tensor, kv_cache: torch.Tensor, plan: AttentionPlan, scale: float
) -> torch.Tensor:
    """Attend with `q` [T, Hq, D], strided but for the last dimension; returns it contiguous."""
    num_kv_heads, _, block_size, dim = kv_cache.shape[1:]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for launch in plan.launches:
        _paged_attention_kernel[(len(launch.sequences), num_kv_heads)](
            q,
            kv_cache,
            out,
            launch.sequences,
            launch.firsts,
            plan.query_starts,
            plan.seq_lens,
            plan.block_tables,
            q.stride(0),
            q.stride(1),
            kv_cache.stride(0),
            plan.block_tables.shape[1],
            scale,
            dim,
            block_size,
            NUM_QUERIES=launch.num_queries,
            GROUP=q.shape[1] // num_kv_heads,
            WIDE=wide_type(q.dtype),
            BLOCK_M=launch.rows,
            BLOCK_S=KEYS,
            BLOCK_D=max(MIN_SIDE, triton.next_power_of_2(dim)),
            num_warps=4,
        )
    return out
