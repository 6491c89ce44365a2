"""Checksums of KV blocks, one number of 64 bits for each, over the bytes as they were written.

Host memory: xxh3-64. Where either side's memory is a device's: a position-weighted sum, which
torch and numpy compute alike, so that no block has to come to the host for its check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xxhash

from baton.transfer.base import Arena

Algorithm = Literal["xxh3", "sum64"]

_MASK = 2**64 - 1


def common_algorithm(ours: Sequence[Arena], theirs: Sequence[Arena]) -> Algorithm:
    """What both sides of a pair compute; each knows the other's arenas from its Hello."""
    host_only = all(arena.memory == "DRAM" for arena in (*ours, *theirs))
    return "xxh3" if host_only else "sum64"


def block_checksums(arena: Arena, block_ids: Sequence[int], algorithm: Algorithm) -> list[int]:
    """Checksums of these blocks as they are now. From any thread."""
    if algorithm == "xxh3":
        digest = xxhash.xxh3_64_intdigest
        view = arena.view
        return [digest(view[block_id]) for block_id in block_ids]
    if not block_ids:
        return []
    if arena.view is not None:
        return sum64_numpy(arena.view[list(block_ids)])
    return _sum64_device(arena, block_ids)


def sum64_numpy(blocks: np.ndarray) -> list[int]:
    """Sum of word i times (2i + 1), modulo 2**64, of each row of `blocks` `[n, block_bytes]` uint8.

    Words are 8 bytes, or single bytes where the length is no multiple of 8. Odd weights have an
    inverse modulo 2**64, so a change of any one word changes the sum.
    """
    words: np.ndarray = blocks.view(np.int64) if blocks.shape[1] % 8 == 0 else blocks
    weights = 2 * np.arange(words.shape[1], dtype=np.int64) + 1
    with np.errstate(over="ignore"):
        sums = (words.astype(np.int64) * weights).sum(axis=1)
    return [int(value) & _MASK for value in sums]


def sum64_torch(blocks: Any) -> list[int]:
    """`sum64_numpy` of a uint8 torch tensor, where the tensor is."""
    import torch

    words = blocks.view(torch.int64) if blocks.shape[1] % 8 == 0 else blocks.to(torch.int64)
    weights = 2 * torch.arange(words.shape[1], dtype=torch.int64, device=blocks.device) + 1
    return [int(value) & _MASK for value in (words * weights).sum(dim=1).tolist()]


def _sum64_device(arena: Arena, block_ids: Sequence[int]) -> list[int]:
    # The engine has torch loaded already wherever an arena is a device's.
    import torch

    device = torch.device("cuda", arena.device_id)
    # What peers have written by RDMA or IPC is visible to kernels that start after this.
    torch.cuda.synchronize(device)
    blocks = torch.as_tensor(_DeviceArray(arena), device=device)
    return sum64_torch(blocks[torch.tensor(list(block_ids), device=device)])


class _DeviceArray:
    """An arena's memory as other libraries take it over without a copy."""

    def __init__(self, arena: Arena) -> None:
        self.__cuda_array_interface__ = {
            "shape": (arena.num_blocks, arena.block_bytes),
            "typestr": "|u1",
            "data": (arena.address, False),
            "version": 3,
        }
