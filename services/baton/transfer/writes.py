"""Block writes as transports queue them: ids as arrays, checked once, no Python per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.core.errors import HandoffError
from baton.core.kv import Arena
from baton.transfer.base import BlockWrite, PeerShard
from baton.transfer.relayout import ByteRange

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayWrite:
    """A `BlockWrite` whose blocks exist on both sides."""

    group: int
    local: Ids
    remote: Ids
    part: int
    num_parts: int
    codec: str = ""

    @property
    def is_last_part(self) -> bool:
        return self.part == self.num_parts - 1


class WriteChecker:
    """Knows how many blocks each group has here and at a peer: in the rank with the fewest."""

    def __init__(
        self, ours: Mapping[int, Arena], shards: Sequence[PeerShard], codecs: Sequence[str] = ()
    ) -> None:
        self._here = {group: arena.num_blocks for group, arena in ours.items()}
        self._there: dict[int, int] = {}
        alike = all(
            theirs.group in ours
            and theirs.held == ours[theirs.group].held
            and theirs.memory == "DRAM"
            for shard in shards
            for theirs in shard.arenas
        )
        # A record has no layers and heads to divide.
        self._codecs = tuple(codecs) if alike and len(shards) == 1 else ()
        for arena in (arena for shard in shards for arena in shard.arenas):
            fewest = self._there.get(arena.group, arena.num_blocks)
            self._there[arena.group] = min(fewest, arena.num_blocks)

    def check(self, writes: Sequence[BlockWrite]) -> tuple[ArrayWrite, ...]:
        """Raises HandoffError when a block or a part does not exist."""
        return tuple(self._check_one(write) for write in writes)

    def _check_one(self, write: BlockWrite) -> ArrayWrite:
        group = write.group
        local = _ids(write.local, self._here.get(group, 0), f"group {group} here")
        remote = _ids(write.remote, self._there.get(group, 0), f"group {group} there")
        if len(local) != len(remote):
            raise HandoffError(f"{len(local)} blocks cannot be written to {len(remote)}")
        if not 0 <= write.part < write.num_parts:
            raise HandoffError(f"there is no part {write.part} of {write.num_parts}")
        if write.codec and (write.codec not in self._codecs or write.num_parts > 1):
            raise HandoffError(f"this peer's blocks cannot be written as {write.codec}")
        return ArrayWrite(group, local, remote, write.part, write.num_parts, write.codec)


def _ids(ids: Sequence[int], num_blocks: int, where: str) -> Ids:
    array = np.asarray(ids, dtype=np.int64)
    if array.size and (array.min() < 0 or array.max() >= num_blocks):
        raise HandoffError(f"there is no such block in {where}")
    return array.astype(np.int32)


def elements(ids: Ids, first_run: int, end_run: int, num_blocks: int) -> Ids:
    """Indices into a prepared list, block by block: see `layout.run_descriptors`."""
    if end_run - first_run == 1:
        return ids + np.int32(first_run * num_blocks)
    runs = np.arange(first_run, end_run, dtype=np.int32) * np.int32(num_blocks)
    return (ids[:, None] + runs[None, :]).ravel()


def num_bytes(ranges: Sequence[ByteRange]) -> int:
    """Bytes of one block."""
    return sum(run.length for run in ranges)
