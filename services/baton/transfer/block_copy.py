"""Copies between blocks of an arena and one row of bytes, for transports that pack what they send.

Host arenas are copied with numpy, a device's with torch where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from baton.core.kv import Arena
from baton.transfer.checksum import Run, device_blocks


def gather(arena: Arena, ids: np.ndarray, runs: Sequence[Run]) -> Any:
    """A uint8 torch tensor `[block, byte]` of these runs of these blocks, where the arena is."""
    import torch

    if arena.view is None:
        blocks = device_blocks(arena)
        rows = torch.from_numpy(ids.astype(np.int64)).to(blocks.device)
        return torch.cat([blocks[rows, start : start + n] for start, n in runs], dim=1)
    # Runs that are all of a block are copied once, not twice.
    parts = [arena.view[ids, start : start + length] for start, length in runs]
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))


def scatter(arena: Arena, ids: np.ndarray, runs: Sequence[Run], data: Any) -> None:
    """The way back, from a tensor on the host or on the arena's device."""
    import torch

    first = 0
    for start, length in runs:
        piece = data[:, first : first + length]
        if arena.view is None:
            blocks = device_blocks(arena)
            rows = torch.from_numpy(ids.astype(np.int64)).to(blocks.device)
            blocks[rows, start : start + length] = piece.to(blocks.device)
        else:
            arena.view[ids, start : start + length] = piece.numpy()
        first += length
    if arena.view is None:
        # Kernels of other streams read it once it is said to be there.
        torch.cuda.synchronize(torch.device("cuda", arena.device_id))
