"""What a source has ready, granted, in flight and written; part of its pure state machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.messages import GroupGrant
from baton.transfer.state import Write


@dataclass(frozen=True, slots=True)
class _InFlight:
    writes: tuple[BlockWrite, ...]
    # Per BlockWrite, the offered indices of its blocks.
    indices: tuple[tuple[int, ...], ...]


class WriteLedger:
    """Books of one handoff's blocks, by group and offered index."""

    def __init__(self, num_blocks: Sequence[int]) -> None:
        self.num_blocks = tuple(num_blocks)
        self.granted = [GroupGrant() for _ in num_blocks]
        self.checksums: list[dict[int, int]] = [{} for _ in num_blocks]
        self.num_bytes = 0
        # Of the agent that the target granted for.
        self.transport_epoch = 0
        self._ready: list[list[int]] = [[] for _ in num_blocks]
        # Indices that are final but not granted.
        self._waiting: list[list[int]] = [[] for _ in num_blocks]
        self._num_written = [0] * len(self.num_blocks)
        self._in_flight: dict[int, _InFlight] = {}
        # Writes that were given up, and may still land.
        self._unsettled: set[int] = set()
        # Writes that failed with nothing in flight.
        self._failed: dict[int, _InFlight] = {}
        self._next_id = 0

    @property
    def in_flight(self) -> bool:
        """A write's result is still to come."""
        return bool(self._in_flight)

    @property
    def may_land(self) -> bool:
        """Bytes of some write may still reach the target."""
        return bool(self._in_flight or self._unsettled)

    @property
    def complete(self) -> bool:
        """Every offered block is written, or held by the target."""
        return all(
            written + len(grant.skip) == count
            for written, grant, count in zip(
                self._num_written, self.granted, self.num_blocks, strict=True
            )
        )

    def add_ready(self, first_index: Sequence[int], block_ids: Sequence[Sequence[int]]) -> None:
        """Blocks became final, in the order of their indices."""
        for group, (first, ids) in enumerate(zip(first_index, block_ids, strict=True)):
            ready = self._ready[group]
            assert first == len(ready), "blocks become ready in order, each once"
            self._waiting[group].extend(range(first, first + len(ids)))
            ready.extend(ids)

    def take_sendable(self) -> Write | None:
        """A write of everything that is final and granted and was not sent before."""
        writes: list[BlockWrite] = []
        indices: list[tuple[int, ...]] = []
        for group, grant in enumerate(self.granted):
            waiting = self._waiting[group]
            fresh = tuple(i for i in waiting if i in grant.blocks)
            if not fresh and not grant.skip:
                continue
            self._waiting[group] = [
                i for i in waiting if i not in grant.blocks and i not in grant.skip
            ]
            if fresh:
                local = tuple(self._ready[group][i] for i in fresh)
                remote = tuple(grant.blocks[i][0] for i in fresh)
                writes.append(BlockWrite(group, local, remote))
                indices.append(fresh)
        return self._start(_InFlight(tuple(writes), tuple(indices))) if writes else None

    def _start(self, entry: _InFlight) -> Write:
        write_id, self._next_id = self._next_id, self._next_id + 1
        self._in_flight[write_id] = entry
        return Write(write_id, entry.writes, self.transport_epoch)

    def settle(self, write_id: int, result: WriteResult) -> bool:
        """Book a write's result; False when it is a late repeat for one that was given up."""
        entry = self._in_flight.pop(write_id, None)
        if entry is None:
            if result.quiesced:
                self._unsettled.discard(write_id)
            return False
        if result.error is None:
            self._note_written(entry, result)
        elif result.quiesced:
            self._failed[write_id] = entry
        else:
            self._unsettled.add(write_id)
        return True

    def write_off(self) -> None:
        """The target is dead: nobody minds what lands there."""
        self._in_flight.clear()
        self._unsettled.clear()

    def again(self, write_id: int) -> Write:
        """Send a failed write's blocks once more, under a new id. Only when it has quiesced."""
        return self._start(self._failed.pop(write_id))

    def _note_written(self, entry: _InFlight, result: WriteResult) -> None:
        self.num_bytes += result.num_bytes
        for write, indices in zip(entry.writes, entry.indices, strict=True):
            self._num_written[write.group] += len(indices)
        # Empty when checksums are off.
        for write, indices, sums in zip(
            entry.writes, entry.indices, result.checksums, strict=False
        ):
            self.checksums[write.group].update(zip(indices, sums, strict=True))
