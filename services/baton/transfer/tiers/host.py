"""Host memory for copies: one arena of slots for each group, and a checksum of each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from baton.core.kv import Arena
from baton.transfer.checksum import device_blocks
from baton.transfer.codec import Bytes, Codec


class BadCopyError(Exception):
    """A slot's bytes are no longer those that were put there."""


class HostTier:
    """`slots[g]` [num_slots, record_bytes]; a slot belongs to one copy at a time.

    Reserved at once, pinned where the device is a GPU, so that copies run without its kernels.
    The system gives pages that are not pinned when they are first written.
    """

    def __init__(
        self, arenas: Sequence[Arena], codecs: Sequence[Codec], num_slots: Sequence[int]
    ) -> None:
        pinned = any(arena.memory == "VRAM" for arena in arenas)
        self._codecs = tuple(codecs)
        self.slots = tuple(
            _allocate(n, c.record_bytes, pinned=pinned)
            for n, c in zip(num_slots, codecs, strict=True)
        )
        self.checksums = tuple(np.zeros(n, dtype=np.uint64) for n in num_slots)
        self._blocks = tuple(
            DeviceBlocks(arena) if arena.memory == "VRAM" else HostBlocks(arena) for arena in arenas
        )

    def save(self, group: int, block: int, slot: int) -> None:
        """Device block to slot. Raises ValueError when the codec cannot encode it."""
        record = self.slots[group][slot]
        self._codecs[group].encode(self._blocks[group].fetch(block), record)
        self.checksums[group][slot] = xxhash.xxh3_64_intdigest(record.data)

    def load(self, group: int, slot: int, block: int) -> None:
        """Slot to device block. Raises BadCopyError when the slot's bytes are not its own."""
        record = self.slots[group][slot]
        if xxhash.xxh3_64_intdigest(record.data) != int(self.checksums[group][slot]):
            raise BadCopyError(f"slot {slot} has changed in memory")
        blocks = self._blocks[group]
        target = blocks.target(block)
        self._codecs[group].decode(record, target)
        blocks.put(block, target)


class HostBlocks:
    """Blocks of an arena in host memory: copied from and to in place."""

    def __init__(self, arena: Arena) -> None:
        self._view: Any = arena.view

    def fetch(self, block: int) -> Bytes:
        view: Bytes = self._view[block]
        return view

    def target(self, block: int) -> Bytes:
        return self.fetch(block)

    def put(self, block: int, target: Bytes) -> None:
        """Already there."""


class DeviceBlocks:
    """Blocks of an arena on a GPU, through a pinned buffer and a stream of their own.

    One thread uses it. Never run on GPU.
    """

    def __init__(self, arena: Arena) -> None:
        # The engine has torch loaded already wherever an arena is a device's.
        import torch

        self._torch = torch
        device = torch.device("cuda", arena.device_id)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._memory = device_blocks(arena)
        self._buffer = torch.empty(arena.block_bytes, dtype=torch.uint8, pin_memory=True)
        self._view: Bytes = self._buffer.numpy()

    def fetch(self, block: int) -> Bytes:
        self._copy(self._buffer, self._memory[block])
        return self._view

    def target(self, block: int) -> Bytes:
        return self._view

    def put(self, block: int, target: Bytes) -> None:
        self._copy(self._memory[block], self._buffer)

    def _copy(self, to: Any, of: Any) -> None:
        with self._torch.cuda.stream(self._stream):
            to.copy_(of, non_blocking=True)
        self._stream.synchronize()


def _allocate(num_slots: int, record_bytes: int, *, pinned: bool) -> Bytes:
    if not pinned:
        return np.empty((num_slots, record_bytes), dtype=np.uint8)
    import torch

    memory = torch.empty((num_slots, record_bytes), dtype=torch.uint8, pin_memory=True)
    view: Bytes = memory.numpy()
    return view
