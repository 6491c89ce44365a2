"""Which bytes of a block move between two ranks that hold different layers and heads of it.

A block is `[layer, head, bytes of one head]` (`core.kv`), so what two ranks share is one contiguous
run of heads per layer, and all of it is one run when they hold the same. Pure: no memory is
touched; descriptors are made from the ranges once per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.core.errors import HandoffError
from baton.core.kv import Arena, ShardSlice
from baton.transfer.base import PeerShard


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes at `ours` in our block are those at `theirs` in the peer's."""

    ours: int
    theirs: int
    length: int


def shared_ranges(head_bytes: int, ours: ShardSlice, theirs: ShardSlice) -> tuple[ByteRange, ...]:
    """What both ranks hold of a block, in the order of our bytes; neighbours are joined.

    `head_bytes` is `GroupSpec.head_bytes`: one head of one layer, K and V.
    """
    first_head, end_head = _common(ours.heads, theirs.heads)
    if end_head <= first_head:
        return ()
    ranges: list[ByteRange] = []
    for layer in range(*_common(ours.layers, theirs.layers)):
        found = ByteRange(
            _offset(head_bytes, ours, layer, first_head),
            _offset(head_bytes, theirs, layer, first_head),
            (end_head - first_head) * head_bytes,
        )
        last = ranges[-1] if ranges else None
        if last is not None and _follows(last, found):
            ranges[-1] = ByteRange(last.ours, last.theirs, last.length + found.length)
        else:
            ranges.append(found)
    return tuple(ranges)


def _common(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[int, int]:
    return max(ours[0], theirs[0]), min(ours[1], theirs[1])


def _offset(head_bytes: int, held: ShardSlice, layer: int, head: int) -> int:
    heads_before = (layer - held.layers[0]) * held.num_heads + head - held.heads[0]
    return heads_before * head_bytes


def _follows(last: ByteRange, found: ByteRange) -> bool:
    return (last.ours + last.length, last.theirs + last.length) == (found.ours, found.theirs)


def part_of(held: ShardSlice, part: int, num_parts: int) -> ShardSlice:
    """The layers of one part of a write, see `BlockWrite`."""
    first, count = held.layers[0], held.num_layers
    layers = (first + part * count // num_parts, first + (part + 1) * count // num_parts)
    return ShardSlice(layers, held.heads)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What writes of one group, cut into `num_parts`, move from our rank to one of the peer's.

    `starts[p]` and `starts[p + 1]` bound the ranges of part p.
    """

    ranges: tuple[ByteRange, ...]
    starts: tuple[int, ...]

    def part(self, part: int) -> tuple[ByteRange, ...]:
        return self.ranges[self.starts[part] : self.starts[part + 1]]


def group_plan(ours: Arena, theirs: Arena, num_parts: int = 1) -> GroupPlan:
    """The plan for two arenas of a group that `check_shards` has passed."""
    ranges: list[ByteRange] = []
    starts = [0]
    for part in range(num_parts):
        piece = part_of(ours.held, part, num_parts)
        layers_before = piece.layers[0] - ours.held.layers[0]
        skipped = layers_before * ours.held.num_heads * ours.head_bytes
        ranges.extend(
            ByteRange(skipped + found.ours, found.theirs, found.length)
            for found in shared_ranges(ours.head_bytes, piece, theirs.held)
        )
        starts.append(len(ranges))
    return GroupPlan(tuple(ranges), tuple(starts))


def checksum_runs(
    ours: Arena, shards: Sequence[PeerShard]
) -> list[tuple[tuple[int, int], ...] | None]:
    """What a checksum covers, for each rank that shares bytes of our blocks: (offset, length) runs.

    None is all of a block, in order. Called with the sides swapped it says the same of the peer's
    blocks, run for run: runs of both sides are in the order of layers and heads.
    """
    found: list[tuple[tuple[int, int], ...] | None] = []
    for theirs in (arena for shard in shards for arena in shard.arenas):
        ranges = group_plan(ours, theirs).ranges if theirs.group == ours.group else ()
        if ranges == (ByteRange(0, 0, ours.block_bytes),):
            found.append(None)
        elif ranges:
            found.append(tuple((run.ours, run.length) for run in ranges))
    return found


def check_shards(ours: Sequence[Arena], shards: Sequence[PeerShard]) -> None:
    """Raise HandoffError unless every byte of our blocks has exactly one place at the peer."""
    theirs = [arena for shard in shards for arena in shard.arenas]
    groups, peer_groups = {a.group for a in ours}, {a.group for a in theirs}
    if groups != peer_groups:
        raise HandoffError(f"groups differ: here {sorted(groups)}, there {sorted(peer_groups)}")
    for arena in (*ours, *theirs):
        if arena.head_bytes * arena.held.num_layers * arena.held.num_heads != arena.block_bytes:
            raise HandoffError(
                f"{arena.block_bytes} bytes are not {arena.held.num_layers} layers of "
                f"{arena.held.num_heads} heads"
            )
    for arena in ours:
        peers = [a for a in theirs if a.group == arena.group]
        if any(a.head_bytes != arena.head_bytes for a in peers):
            sizes = sorted({a.head_bytes for a in peers})
            raise HandoffError(
                f"block sizes of group {arena.group} differ: a head of a layer has "
                f"{arena.head_bytes} bytes here, {sizes} there"
            )
        plans = (group_plan(arena, a) for a in peers)
        runs = sorted((run for plan in plans for run in plan.ranges), key=_start)
        ends = [0, *(run.ours + run.length for run in runs)]
        if [run.ours for run in runs] != ends[:-1] or ends[-1] != arena.block_bytes:
            raise HandoffError(f"the peer's ranks do not hold group {arena.group} exactly once")


def _start(run: ByteRange) -> int:
    return run.ours
