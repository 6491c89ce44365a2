"""Writing to KV blocks: new keys and values into their slots, and whole blocks onto others."""

from __future__ import annotations

import torch


def store_kv(
    kv: torch.Tensor, kv_cache: torch.Tensor, block_ids: torch.Tensor, offsets: torch.Tensor
) -> None:
    """`kv_cache[block_ids[t], h, c, offsets[t]] = kv[t, h, c]` for K (c = 0) and V (c = 1).

    `kv` [T, H, 2, D] in any strides with a contiguous last dimension; `kv_cache`
    [num_blocks, H, 2, block_size, D], one layer of an arena, strided over blocks; `block_ids` and
    `offsets` [T] int64, no two tokens sharing a slot.
    """
    kv_cache[block_ids, :, :, offsets] = kv


def copy_blocks(arena: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """`arena[targets[i]] = arena[sources[i]]`, bytes of all layers.

    `arena` [num_blocks, block_bytes] uint8; `sources` and `targets` [N] int64, no target twice. All
    sources are read before any target is written.
    """
    arena[targets] = arena[sources]
