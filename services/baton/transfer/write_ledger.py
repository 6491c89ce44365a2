"""What a source has ready, granted, in flight and written; part of its pure state machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.messages import GroupGrant
from baton.transfer.state import Write


@dataclass(frozen=True, slots=True)
class _InFlight:
    writes: tuple[BlockWrite, ...]
    # Per BlockWrite, the offered indices of its blocks.
    indices: tuple[tuple[int, ...], ...]
    is_retry: bool = False


@dataclass(slots=True)
class _Chunk:
    """Blocks of one group that become final together, part by part; those not sent whole yet."""

    num_parts: int
    # Indices of which nothing is sent: they are not granted.
    unsent: list[int]
    # Indices of which the first `num_sent` parts are.
    begun: list[int] = field(default_factory=list)
    num_sent: int = 0
    num_final: int = 1

    @property
    def whole(self) -> bool:
        return self.num_final == self.num_parts


class WriteLedger:
    """Books of one handoff's blocks, by group and offered index."""

    def __init__(self, num_blocks: Sequence[int]) -> None:
        self.num_blocks = tuple(num_blocks)
        self.granted = [GroupGrant() for _ in num_blocks]
        self.checksums: list[dict[int, int]] = [{} for _ in num_blocks]
        self.num_bytes = 0
        # Of the agent that the target granted for.
        self.transport_epoch = 0
        self.codec = ""
        # Blocks of each group that the codec is for: those that the offer has hashes of.
        self._num_encoded = [0] * len(self.num_blocks)
        self._ready: list[list[int]] = [[] for _ in num_blocks]
        self._chunks: list[list[_Chunk]] = [[] for _ in num_blocks]
        # Blocks of which every part was given to a write.
        self._num_sent = [0] * len(self.num_blocks)
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
        """Every part of every block that comes is written, or held by the target."""
        if self._in_flight or self._unsettled or self._failed:
            return False
        for sent, grant, count in zip(self._num_sent, self.granted, self.num_blocks, strict=True):
            if sent + sum(map(count.__gt__, grant.skip)) != count:
                return False
        return True

    def use_codec(self, codec: str, hashes: Sequence[Sequence[bytes]]) -> None:
        """The target wants full blocks, which have `hashes`, in this form; before any write."""
        self.codec = codec
        if codec:
            self._num_encoded = [len(of_group) for of_group in hashes]

    def add_ready(
        self,
        first_index: Sequence[int],
        block_ids: Sequence[Sequence[int]],
        part: int = 0,
        num_parts: int = 1,
    ) -> None:
        """Blocks became final in the order of their indices, each of them part by part."""
        for group, (first, ids) in enumerate(zip(first_index, block_ids, strict=True)):
            if not ids:
                continue
            ready, chunks = self._ready[group], self._chunks[group]
            if part == 0:
                assert first == len(ready), "blocks become ready in order, each once"
                ready.extend(ids)
                chunks.append(_Chunk(num_parts, list(range(first, first + len(ids)))))
            else:
                assert first + len(ids) == len(ready), "parts are of the last blocks"
                assert part == chunks[-1].num_final, "parts become ready in order, each once"
                chunks[-1].num_final += 1

    def end_growth(self) -> None:
        """No more blocks will come: those offered beyond the ones that are ready stay unused."""
        self.num_blocks = tuple([len(ready) for ready in self._ready])

    def take_sendable(self) -> Write | None:
        """A write of everything that is final and granted and was not sent before."""
        for grant in self.granted:
            if grant.blocks:
                return self._take()
        return None

    def _take(self) -> Write | None:
        writes: list[BlockWrite] = []
        indices: list[tuple[int, ...]] = []

        def add(
            group: int, blocks: Sequence[int], part: int = 0, num_parts: int = 1, codec: str = ""
        ) -> None:
            ready, granted = self._ready[group], self.granted[group].blocks
            local = tuple([ready[i] for i in blocks])
            remote = tuple([granted[i][0] for i in blocks])
            writes.append(BlockWrite(group, local, remote, part, num_parts, codec))
            indices.append(tuple(blocks))

        for group, grant in enumerate(self.granted):
            # Blocks of several chunks that go as one write.
            whole: list[int] = []
            for chunk in self._chunks[group]:
                if self.codec and not chunk.whole:
                    # A record is of all layers.
                    continue
                fresh = [i for i in chunk.unsent if i in grant.blocks]
                if len(fresh) == len(chunk.unsent):
                    chunk.unsent = []
                elif fresh or grant.skip:
                    chunk.unsent = [
                        i for i in chunk.unsent if i not in grant.blocks and i not in grant.skip
                    ]
                if chunk.begun:
                    for part in range(chunk.num_sent, chunk.num_final):
                        add(group, chunk.begun, part, chunk.num_parts)
                if chunk.whole:
                    whole += fresh
                    self._num_sent[group] += len(chunk.begun) + len(fresh)
                    chunk.begun = []
                elif fresh:
                    for part in range(chunk.num_final):
                        add(group, fresh, part, chunk.num_parts)
                    chunk.begun += fresh
                chunk.num_sent = chunk.num_final
            encoded = [i for i in whole if i < self._num_encoded[group]] if self.codec else []
            if encoded:
                add(group, encoded, codec=self.codec)
                whole = [i for i in whole if i >= self._num_encoded[group]]
            if whole:
                add(group, whole)
            self._chunks[group] = [c for c in self._chunks[group] if c.unsent or not c.whole]
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

    def again(self, write_id: int) -> Write | None:
        """Send a failed write's blocks once more, under a new id. Only when it has quiesced.

        None when that was a second try already.
        """
        entry = self._failed[write_id]
        if entry.is_retry:
            return None
        del self._failed[write_id]
        return self._start(_InFlight(entry.writes, entry.indices, is_retry=True))

    def _note_written(self, entry: _InFlight, result: WriteResult) -> None:
        self.num_bytes += result.num_bytes
        # No checksums at all when they are off, none for parts but the last.
        for write, indices, sums in zip(
            entry.writes, entry.indices, result.checksums, strict=False
        ):
            if sums:
                self.checksums[write.group].update(zip(indices, sums, strict=True))
