"""What the engine asks of the memory below its own: copies of blocks in host memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

# Called once, on the engine's thread and not from within the request: whether the copy is there.
Done = Callable[[bool], None]


class TierSizes(NamedTuple):
    """How many copies of one group's blocks there is room for; `disk_records` 0: no disk."""

    host_slots: int
    host_record_bytes: int
    disk_records: int
    disk_record_bytes: int
    # Host slots only pass blocks on to the disk and back.
    host_is_staging: bool = False


class LowerTiers(Protocol):
    """Moves bytes between device blocks, host slots and disk records, on threads of its own.

    Nothing here waits. The caller hands out no block or slot that takes part in a request before
    its `done`. A copy that fails its check is not done: `done(False)`.
    """

    def save(self, group: int, block: int, slot: int, done: Done) -> None:
        """Device block to host slot, with a checksum."""

    def load(self, group: int, slot: int, block: int, done: Done) -> None:
        """Host slot to device block, if the slot's bytes are those that were put there."""

    def write(self, group: int, slot: int, block_hash: bytes, done: Done) -> None:
        """Host slot to a new disk record."""

    def read(self, group: int, block_hash: bytes, slot: int, done: Done) -> None:
        """Disk record to host slot, if the record is whole and for this hash."""

    def delete(self, group: int, block_hash: bytes) -> None:
        """Remove a disk record that nobody reads. Later writes of the hash come after it."""
