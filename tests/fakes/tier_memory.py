"""Host and disk tiers over a small arena of random blocks, with their threads and real files."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from baton.core.kv import Arena, GroupSpec
from baton.transfer.codec import CodecName, make_codec
from baton.transfer.tiers.disk import DiskTier
from baton.transfer.tiers.host import HostTier
from baton.transfer.tiers.mover import Mover
from baton.transfer.tiers.record import Kind

SPEC = GroupSpec("full", 2, 2, 8, 8, 4, "float32")
DIGEST = "0123456789abcdef" * 2
NUM_BLOCKS = 8
WAIT_S = 20.0


def hash_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


class TierMemory:
    """One worker's; `done` of each request is awaited. `delay(kind)` runs before disk work."""

    def __init__(
        self, path: Path | None, *, digest: str = DIGEST, codec: CodecName = "none", slots: int = 8
    ) -> None:
        memory = np.random.default_rng(7).standard_normal((NUM_BLOCKS, SPEC.block_bytes // 4))
        self.view = memory.astype(np.float32).view(np.uint8)
        fields: dict[str, Any] = {"memory": "DRAM", "device_id": 0, "view": self.view}
        address = self.view.ctypes.data
        arena = Arena(0, address, NUM_BLOCKS, SPEC.block_bytes, **fields)
        encoder = make_codec(codec, SPEC)
        self.host = HostTier([arena], [encoder], [slots])
        self.disk: DiskTier | None = None
        if path is not None:
            kind = Kind(digest, 0, encoder.name, encoder.record_bytes)
            self.disk = DiskTier(path, [kind])
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.mover = Mover(self.host, self.disk, self.inbox.put)

    def do(self, name: str, *args: Any) -> bool:
        """One request of LowerTiers, and whether it went well."""
        answers: list[bool] = []
        getattr(self.mover, name)(*args, answers.append)
        while not answers:
            self.inbox.get(timeout=WAIT_S)()
        return answers[0]

    def store(self, block: int, number: int, slot: int = 0) -> bool:
        """A device block all the way to the disk."""
        assert self.do("save", 0, block, slot)
        return self.do("write", 0, slot, hash_of(number))

    def fetch(self, number: int, block: int, slot: int = 1) -> bool:
        """A record all the way to a device block."""
        return self.do("read", 0, hash_of(number), slot) and self.do("load", 0, slot, block)

    def earlier(self) -> tuple[list[bytes], int]:
        """What the disk finds of an earlier life, and the bytes of others."""
        found: list[bytes] = []
        foreign: list[int] = []
        self.mover.find_earlier(1, lambda group, hashes: found.extend(hashes), foreign.append)
        while not foreign:
            self.inbox.get(timeout=WAIT_S)()
        return found, foreign[0]

    def files(self) -> list[Path]:
        assert self.disk is not None
        return sorted(self.disk.folder.rglob("*.kv"))
