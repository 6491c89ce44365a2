"""Checksums of KV blocks, one number of 64 bits for each, over the bytes as they were written.

Host memory: xxh3-64. Where either side's memory is a device's: a position-weighted sum, which
torch and numpy compute alike, so that no block has to come to the host for its check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xxhash

from baton.core.kv import Arena

Algorithm = Literal["xxh3", "sum64"]
# Offset and length in bytes, inside a block.
Run = tuple[int, int]

_MASK = 2**64 - 1


def common_algorithm(ours: Sequence[Arena], theirs: Sequence[Arena]) -> Algorithm:
    """What both sides of a pair compute; each knows the other's arenas from its Hello."""
    host_only = all(arena.memory == "DRAM" for arena in (*ours, *theirs))
    return "xxh3" if host_only else "sum64"


def block_checksums(
    arena: Arena,
    block_ids: Sequence[int] | np.ndarray,
    algorithm: Algorithm,
    runs: Sequence[Run] | None = None,
) -> list[int]:
    """Checksums of these blocks as they are now. From any thread.

    `runs` are the bytes of a block that count, one after the other: what two ranks with different
    layers or heads share, in the order of the writer's bytes. None is all of it.
    """
    ids = np.asarray(block_ids, dtype=np.int64)
    if not len(ids):
        return []
    if arena.view is None:
        return _sum64_device(arena, ids, runs)
    if algorithm == "sum64":
        blocks = arena.view[ids]
        return sum64_numpy(blocks if runs is None else np.concatenate(_cut(blocks, runs), axis=1))
    if runs is None:
        digest, view = xxhash.xxh3_64_intdigest, arena.view
        return [digest(view[block_id]) for block_id in ids.tolist()]
    return [_xxh3_runs(arena.view[block_id], runs) for block_id in ids.tolist()]


def _xxh3_runs(block: Any, runs: Sequence[Run]) -> int:
    digest = xxhash.xxh3_64()
    for offset, length in runs:
        digest.update(block[offset : offset + length])
    return digest.intdigest()


def _cut(blocks: Any, runs: Sequence[Run]) -> list[Any]:
    return [blocks[:, offset : offset + length] for offset, length in runs]


def written_checksums(
    arena: Arena,
    block_ids: Sequence[int] | np.ndarray,
    algorithm: Algorithm,
    runs_by_rank: Sequence[Sequence[Run] | None],
) -> list[int]:
    """One number per block for a write to several ranks: the sum of theirs, modulo 2**64."""
    ranks = [block_checksums(arena, block_ids, algorithm, runs) for runs in runs_by_rank]
    return ranks[0] if len(ranks) == 1 else [sum(n) & _MASK for n in zip(*ranks, strict=True)]


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


def _sum64_device(arena: Arena, ids: np.ndarray, runs: Sequence[Run] | None) -> list[int]:
    import torch

    # What peers have written by RDMA or IPC is visible to kernels that start after this.
    torch.cuda.synchronize(torch.device("cuda", arena.device_id))
    there = device_blocks(arena)
    blocks = there[torch.from_numpy(ids).to(there.device)]
    return sum64_torch(blocks if runs is None else torch.cat(_cut(blocks, runs), dim=1))


def device_blocks(arena: Arena) -> Any:
    """A device's arena as a uint8 torch tensor `[num_blocks, block_bytes]`, not copied."""
    # The engine has torch loaded already wherever an arena is a device's.
    import torch

    return torch.as_tensor(_DeviceArray(arena), device=torch.device("cuda", arena.device_id))


class _DeviceArray:
    """An arena's memory as other libraries take it over without a copy."""

    def __init__(self, arena: Arena) -> None:
        self.__cuda_array_interface__ = {
            "shape": (arena.num_blocks, arena.block_bytes),
            "typestr": "|u1",
            "data": (arena.address, False),
            "version": 3,
        }
