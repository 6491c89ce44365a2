"""Causal attention over paged KV, for decode steps and prefill chunks alike.

    out[t] = softmax(scale * q[t] . K[0..p]) V[0..p],  p = position of token t in its sequence

(Vaswani et al., https://arxiv.org/abs/1706.03762; paging after Kwon et al.,
https://arxiv.org/abs/2309.06180.) Queries of grouped heads (https://arxiv.org/abs/2305.13245) share
a KV head.

How the steps of a batch fit together is decided once, in `plan_attention`, and reused by every
layer: long chunks are cut into tiles, tiles of like size are padded to one bucket, and each bucket
is one gather of KV blocks and one batched attention. So a decode batch costs a handful of torch
calls, however many sequences it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Queries of one tile. Keys past a tile's last query are not read, which saves up to half the work.
QUERY_TILE = 128
# A bucket may pad this many KV blocks, or half of what it really holds, whichever is more.
FREE_PADDING_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class _Tile:
    """Consecutive new tokens of one sequence: rows [row, row + num_queries) of the batch."""

    row: int
    num_queries: int
    start: int  # position of the first one
    blocks: np.ndarray  # KV blocks up to its last one
    cost: tuple[int, int]  # log2 of the queries, rounded up; number of blocks


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Tiles padded to B x Q queries and B x S keys, S a multiple of the block size."""

    num_tiles: int
    num_queries: int
    query_rows: torch.Tensor  # [B * Hkv * G * Q] rows of q as [T * Hq, D]
    cache_rows: torch.Tensor  # [2 * B * Hkv * NB] rows of the layer as [*, block_size * D]
    bias: torch.Tensor  # [B, 1, G * Q, S]: 0 or -inf
    kept: torch.Tensor | None  # indices into query_rows that are no padding; None: all


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The shape of one step, for every layer of a group."""

    buckets: tuple[_Bucket, ...]
    num_kv_heads: int
    scratch: torch.Tensor  # gathered KV of a bucket; fresh pages for each layer would cost more


def plan_attention(
    kv_cache: torch.Tensor,
    num_q_heads: int,
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    block_tables: Sequence[np.ndarray],
) -> AttentionPlan:
    """Prepare a step of B sequences: [B] new tokens, [B] tokens with them, [B] block tables.

    Plans fit every cache with the shape, strides and type of `kv_cache`
    [num_blocks, Hkv, 2, block_size, D]. The batch's tokens lie in q in the order of the sequences.
    Slots past a sequence's end in its last block are read and ignored, so they must be finite.
    """
    block_size = kv_cache.shape[3]
    tiles: list[_Tile] = []
    row = 0
    for query_len, seq_len, table in zip(query_lens, seq_lens, block_tables, strict=True):
        for first in range(0, query_len, QUERY_TILE):
            num = min(QUERY_TILE, query_len - first)
            start = seq_len - query_len + first
            num_blocks = -(-(start + num) // block_size)
            cost = (num - 1).bit_length(), num_blocks
            tiles.append(_Tile(row + first, num, start, table[:num_blocks], cost))
        row += query_len
    buckets = tuple(_make_bucket(b, kv_cache, num_q_heads) for b in _group(tiles))
    num_rows = max(len(b.cache_rows) for b in buckets)
    scratch = kv_cache.new_empty(num_rows, block_size * kv_cache.shape[4])
    return AttentionPlan(buckets, kv_cache.shape[1], scratch)


def _group(tiles: list[_Tile]) -> list[list[_Tile]]:
    """Buckets of tiles in which padding stays small."""
    groups: list[list[_Tile]] = []
    real = padded = 0
    for tile in sorted(tiles, key=lambda t: t.cost, reverse=True):
        if groups:
            queries, num_blocks = groups[-1][0].cost
            waste = padded + num_blocks - tile.cost[1]
            # Decode tiles have one query; for longer ones padding costs as many times more.
            free = max(FREE_PADDING_BLOCKS >> queries, (real + tile.cost[1]) // 2)
            if queries == tile.cost[0] and waste <= free:
                groups[-1].append(tile)
                real, padded = real + tile.cost[1], waste
                continue
        groups.append([tile])
        real, padded = tile.cost[1], 0
    return groups


def _make_bucket(tiles: list[_Tile], kv_cache: torch.Tensor, num_q_heads: int) -> _Bucket:
    _, num_kv_heads, _, block_size, dim = kv_cache.shape
    group = num_q_heads // num_kv_heads
    num_tiles = len(tiles)
    num_queries = max(t.num_queries for t in tiles)
    num_blocks = max(t.cost[1] for t in tiles)
    # Padding repeats a tile's own last block and last query, so that a sequence never reads the KV
    # of another, not even to multiply it by zero.
    blocks = np.empty((num_tiles, num_blocks), dtype=np.int64)
    for i, tile in enumerate(tiles):
        blocks[i, : tile.cost[1]] = tile.blocks
        blocks[i, tile.cost[1] :] = tile.blocks[-1]
    counts = np.array([t.num_queries for t in tiles])
    steps = np.arange(num_queries)
    query = np.minimum(steps, counts[:, None] - 1)  # [B, Q]
    tokens = np.array([t.row for t in tiles])[:, None] + query
    heads = np.arange(num_q_heads).reshape(1, num_kv_heads, group, 1)
    query_rows = tokens[:, None, None, :] * num_q_heads + heads  # [B, Hkv, G, Q]
    rows_per_block = kv_cache.stride(0) // (block_size * dim)
    planes = np.arange(2).reshape(2, 1, 1, 1) + 2 * np.arange(num_kv_heads).reshape(1, 1, -1, 1)
    cache_rows = blocks[None, :, None, :] * rows_per_block + planes  # [2, B, Hkv, NB]
    positions = np.array([t.start for t in tiles])[:, None] + query
    hidden = np.arange(num_blocks * block_size) > positions[:, :, None]  # [B, Q, S]
    bias = torch.zeros(hidden.shape, dtype=_score_dtype(kv_cache.dtype))
    bias.masked_fill_(torch.from_numpy(hidden), float("-inf"))
    kept = np.broadcast_to(steps < counts[:, None, None, None], query_rows.shape).reshape(-1)
    return _Bucket(
        num_tiles,
        num_queries,
        torch.from_numpy(query_rows.reshape(-1)),
        torch.from_numpy(cache_rows.reshape(-1)),
        bias[:, None].repeat(1, 1, group, 1) if num_queries > 1 else bias[:, None],
        None if kept.all() else torch.from_numpy(np.flatnonzero(kept)),
    )


def paged_attention(
    q: torch.Tensor, kv_cache: torch.Tensor, plan: AttentionPlan, scale: float
) -> torch.Tensor:
    """Attend with `q` [T, Hq, D] to one layer's `kv_cache` [num_blocks, Hkv, 2, block_size, D].

    The step's own keys and values are stored already. Returns [T, Hq, D], contiguous.
    """
    block_size, dim = kv_cache.shape[3:]
    queries = q.reshape(-1, dim)
    # One row holds the K or V of one head in one block; a layer is a strided choice of them.
    num_rows = (kv_cache.shape[0] - 1) * kv_cache.stride(0) // (block_size * dim)
    num_rows += 2 * plan.num_kv_heads
    rows = kv_cache.as_strided((num_rows, block_size * dim), (block_size * dim, 1))
    out = torch.empty_like(queries)
    for bucket in plan.buckets:
        shape = (bucket.num_tiles, plan.num_kv_heads, -1, dim)
        gathered = plan.scratch[: len(bucket.cache_rows)]
        torch.index_select(rows, 0, bucket.cache_rows, out=gathered)
        k, v = gathered.view(2, *shape)
        result = _attend(
            queries.index_select(0, bucket.query_rows).view(shape), k, v, bucket, scale
        )
        result = result.reshape(-1, dim)
        if bucket.kept is None:
            out[bucket.query_rows] = result
        else:
            out[bucket.query_rows[bucket.kept]] = result[bucket.kept]
    return out.view(q.shape)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bucket: _Bucket, scale: float
) -> torch.Tensor:
    """Attention of [B, Hkv, G * Q, D] over [B, Hkv, S, D]."""
    if bucket.num_queries > 1 and q.dtype == bucket.bias.dtype:
        return F.scaled_dot_product_attention(q, k, v, bucket.bias, scale=scale)
    # For one query, and for 16-bit types, torch's fused CPU kernel is the slower way (measured).
    scores = torch.matmul(q, k.transpose(-1, -2)).to(bucket.bias.dtype)
    weights = scores.mul_(scale).add_(bucket.bias).softmax(-1).to(v.dtype)
    return torch.matmul(weights, v)


def _score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Scores and softmax are computed in this type."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
