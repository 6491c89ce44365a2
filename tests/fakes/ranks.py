"""Workers divided over ranks: arenas of some heads of a model that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baton.core.kv import Arena, GroupSpec, ShardSlice, whole_slice

SPEC = GroupSpec(
    "full", num_layers=4, num_kv_heads=4, k_dim=8, v_dim=8, block_size=4, dtype="float32"
)
HEAD_BYTES = SPEC.head_bytes
SHAPE = (SPEC.num_layers, SPEC.num_kv_heads, HEAD_BYTES)


def divided(num_ranks: int) -> list[ShardSlice]:
    """All layers, and an equal share of the heads for each."""
    share = SPEC.num_kv_heads // num_ranks
    layers = whole_slice(SPEC).layers
    return [ShardSlice(layers, (i * share, (i + 1) * share)) for i in range(num_ranks)]


def rank_arena(held: ShardSlice, num_blocks: int = 8) -> Arena:
    """Zeroed host memory of one rank."""
    block_bytes = held.num_layers * held.num_heads * HEAD_BYTES
    view = np.zeros((num_blocks, block_bytes), np.uint8)
    return Arena(0, view.ctypes.data, num_blocks, block_bytes, "DRAM", 0, view, held)


def whole_blocks(num_blocks: int, seed: int) -> np.ndarray:
    """Contents `[block, layer, head, byte]`."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (num_blocks, *SHAPE), dtype=np.uint8)


def logical_block(ranks: Sequence[tuple[ShardSlice, np.ndarray]]) -> np.ndarray:
    """A whole block `[layer, head, byte]` put together from what its ranks hold of it."""
    block = np.zeros(SHAPE, np.uint8)
    for held, raw in ranks:
        shape = (held.num_layers, held.num_heads, HEAD_BYTES)
        block[slice(*held.layers), slice(*held.heads)] = raw.reshape(shape)
    return block
