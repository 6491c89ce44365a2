"""Registered memory from which records are written: blocks are encoded there first.

Each sender has memory of its own, for a peer that hangs keeps what it was given. Senders that end
hand it on. A write that was given up may then read records of another peer's blocks; the blocks
that it writes to are in quarantine, so nobody sees them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from baton.core.kv import Arena
from baton.transfer.codec import Codec
from baton.transfer.layout import run_descriptors

# Of a sender that has records to write: two pieces, one on its way while the next is encoded.
STAGING_BYTES = 8 * 2**20
SLOT_ALIGNMENT = 64


class Staging:
    """`slots` [num_slots, slot_bytes], and a prepared list of the records in them by group."""

    def __init__(self, agent: Any, codecs: Sequence[Codec]) -> None:
        largest = max(codec.record_bytes for codec in codecs)
        slot_bytes = -(-largest // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
        self.piece_slots = max(1, STAGING_BYTES // 2 // slot_bytes)
        self.slots = np.zeros((2 * self.piece_slots, slot_bytes), np.uint8)
        address, num_slots = self.slots.ctypes.data, len(self.slots)
        agent.register_memory([(address, self.slots.nbytes, 0, "")], "DRAM")
        arena = Arena(0, address, num_slots, slot_bytes, "DRAM", 0, None)
        self.lists = [
            agent.prep_xfer_dlist(
                "NIXL_INIT_AGENT", run_descriptors(arena, [(0, codec.record_bytes)]), "DRAM"
            )
            for codec in codecs
        ]


class StagingPool:
    """The staging memory of one agent. From any thread."""

    def __init__(self, agent: Any, codecs: Sequence[Codec]) -> None:
        self._agent = agent
        self._codecs = tuple(codecs)
        self._lock = threading.Lock()
        self._free: list[Staging] = []
        self._memory: list[np.ndarray] = []

    def take(self) -> Staging:
        with self._lock:
            if self._free:
                return self._free.pop()
            made = Staging(self._agent, self._codecs)
            self._memory.append(made.slots)
            return made

    def give(self, staging: Staging) -> None:
        with self._lock:
            self._free.append(staging)

    @property
    def memory(self) -> list[np.ndarray]:
        """All that is registered; it must outlive the agent."""
        return self._memory
