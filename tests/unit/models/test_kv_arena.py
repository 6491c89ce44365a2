"""The arena's bytes lie where `core.kv` says, on whole pages, or are refused in time."""

from __future__ import annotations

import mmap

import pytest
import torch

from baton.core.errors import ConfigError
from baton.core.kv import GroupSpec
from baton.models.kv_cache import KvArena, available_memory

CPU = torch.device("cpu")


def spec(dtype: str = "float32") -> GroupSpec:
    return GroupSpec("full", 3, 2, 6, 6, 5, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_layers_are_views_of_the_bytes_in_the_agreed_order(dtype: str) -> None:
    group = spec(dtype)
    arena = KvArena(group, 7, CPU)
    assert arena.memory.shape == (7, group.block_bytes)
    assert arena.memory.data_ptr() % mmap.PAGESIZE == 0
    assert not arena.memory.any()
    layer, block, head, slot, dim = 2, 4, 1, 3, 5
    arena.layers[layer][block, head, 1, slot, dim] = 2.5  # of V
    size = arena.layers[layer].element_size()
    value = group.block_size * group.k_dim + slot * group.v_dim + dim
    start = layer * group.layer_bytes + head * group.head_bytes + value * size
    stored = arena.memory[block, start : start + size].view(arena.layers[layer].dtype)
    assert stored.item() == 2.5
    assert arena.memory.count_nonzero() == stored.view(torch.uint8).count_nonzero()


def test_a_pool_beyond_memory_is_refused_with_sizes_and_flags() -> None:
    num_blocks = 2 * available_memory(CPU) // spec().block_bytes
    with pytest.raises(ConfigError) as refusal:
        KvArena(spec(), num_blocks, CPU)
    asked = f"{num_blocks * spec().block_bytes / 2**30:.1f} GiB"
    for words in (asked, "are available", "--kv-memory", "--kv-blocks"):
        assert words in refusal.value.message


def test_a_failed_allocation_is_refused_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    # More than any address space: what remains when the first look was too hopeful.
    monkeypatch.setattr("baton.models.kv_cache.available_memory", lambda device: 2**62)
    with pytest.raises(ConfigError, match=r"the allocation failed .*--kv-memory"):
        KvArena(spec(), 2**60 // spec().block_bytes, CPU)
