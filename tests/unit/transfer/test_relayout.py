"""Re-layout between ranks that hold different layers and heads, and writes cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import HandoffError
from baton.core.kv import Arena, ShardSlice, whole_slice
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.checksum import block_checksums, written_checksums
from baton.transfer.inproc import InprocTransport
from baton.transfer.layout import group_to_proto, peer_shard
from baton.transfer.relayout import check_shards, checksum_runs, group_plan, shared_ranges
from baton.transfer.writes import WriteChecker, elements
from baton.v1 import common_pb2, transfer_pb2
from fakes.ranks import HEAD_BYTES, SPEC, divided, logical_block, rank_arena, whole_blocks
from fakes.transfer import GROUP


@st.composite
def cuts(draw: st.DrawFn, count: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover 0 to `count`, each once."""
    inner = draw(st.sets(st.integers(1, count - 1))) if count > 1 else set()
    edges = [0, *sorted(inner), count]
    return list(pairwise(edges))


@st.composite
def sides(draw: st.DrawFn) -> tuple[ShardSlice, list[ShardSlice], list[ShardSlice]]:
    """A model's layers and heads, and two ways to divide them over ranks."""
    layers, heads = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    both = [
        [ShardSlice(a, b) for a in draw(cuts(layers)) for b in draw(st.just(draw(cuts(heads))))]
        for _ in range(2)
    ]
    return ShardSlice((0, layers), (0, heads)), both[0], both[1]


def piece(block: np.ndarray, held: ShardSlice) -> np.ndarray:
    """What a rank's block holds of a whole one `[layer, head, byte]`."""
    return block[slice(*held.layers), slice(*held.heads)].ravel()


@settings(max_examples=150)
@given(sides(), st.integers(1, 3))
def test_every_byte_moves_exactly_once_to_its_place(
    all_sides: tuple[ShardSlice, list[ShardSlice], list[ShardSlice]], head_bytes: int
) -> None:
    whole, ours, theirs = all_sides
    shape = (whole.num_layers, whole.num_heads, head_bytes)
    block = np.arange(np.prod(shape)).reshape(shape)
    for there in theirs:
        arrived = np.full(piece(block, there).shape, -1)
        times = np.zeros_like(arrived)
        for here in ours:
            mine = piece(block, here)
            for run in shared_ranges(head_bytes, here, there):
                to = slice(run.theirs, run.theirs + run.length)
                arrived[to] = mine[run.ours : run.ours + run.length]
                times[to] += 1
        assert np.array_equal(arrived, piece(block, there))
        assert (times == 1).all()


@settings(max_examples=100)
@given(sides(), st.integers(1, 7))
def test_parts_are_the_layers_they_say_and_together_the_whole(
    all_sides: tuple[ShardSlice, list[ShardSlice], list[ShardSlice]], num_parts: int
) -> None:
    _, ours, theirs = all_sides
    for here in ours:
        for there in theirs:
            mine, yours = _opaque(here), _opaque(there)
            plan = group_plan(mine, yours, num_parts)
            layer_bytes = here.num_heads * mine.head_bytes
            covered: list[int] = []
            for part in range(num_parts):
                first = part * here.num_layers // num_parts * layer_bytes
                end = (part + 1) * here.num_layers // num_parts * layer_bytes
                for run in plan.part(part):
                    assert first <= run.ours and run.ours + run.length <= end
                    covered += range(run.ours, run.ours + run.length)
            whole = [
                byte
                for run in group_plan(mine, yours).ranges
                for byte in range(run.ours, run.ours + run.length)
            ]
            assert covered == whole


def _opaque(held: ShardSlice) -> Arena:
    return Arena(0, 0, 4, 2 * held.num_layers * held.num_heads, "DRAM", 0, None, held)


def test_equal_ranks_move_a_block_as_one_run_and_parts_as_one_each() -> None:
    arena = rank_arena(whole_slice(SPEC))
    assert [r.length for r in group_plan(arena, arena).ranges] == [SPEC.block_bytes]
    assert checksum_runs(arena, [PeerShard(b"", (arena,))]) == [None]
    quarters = group_plan(arena, arena, 4)
    assert [r.length for r in quarters.ranges] == [SPEC.layer_bytes] * 4
    assert quarters.starts == (0, 1, 2, 3, 4)


def test_a_rank_that_has_half_the_heads_gets_one_run_per_layer() -> None:
    whole, (first, second) = rank_arena(whole_slice(SPEC)), divided(2)
    for held, start in ((first, 0), (second, 2 * HEAD_BYTES)):
        runs = group_plan(whole, rank_arena(held)).ranges
        assert [r.ours for r in runs] == [i * SPEC.layer_bytes + start for i in range(4)]
        assert [r.theirs for r in runs] == [i * 2 * HEAD_BYTES for i in range(4)]


# --- what does not fit is refused ---


def _shards(*held: ShardSlice) -> list[PeerShard]:
    return [PeerShard(b"", (rank_arena(h),)) for h in held]


def test_ranks_must_hold_everything_once() -> None:
    ours = [rank_arena(whole_slice(SPEC))]
    first, second = divided(2)
    check_shards(ours, _shards(first, second))
    for wrong in ([first], [first, first], [first, second, first], [whole_slice(SPEC), first]):
        with pytest.raises(HandoffError, match="exactly once"):
            check_shards(ours, _shards(*wrong))
    # A rank of ours needs its own share only, from whoever has it.
    check_shards([rank_arena(first)], _shards(whole_slice(SPEC)))
    with pytest.raises(HandoffError, match="groups differ"):
        check_shards(ours, [])


def test_bytes_of_a_head_must_agree_and_be_whole() -> None:
    ours = [rank_arena(whole_slice(SPEC))]
    other = Arena(0, 0, 4, 16 * 128, "DRAM", 0, None, whole_slice(SPEC))
    with pytest.raises(HandoffError, match="block sizes of group 0 differ"):
        check_shards(ours, [PeerShard(b"", (other,))])
    broken = Arena(0, 0, 4, 4095, "DRAM", 0, None, whole_slice(SPEC))
    with pytest.raises(HandoffError, match="4095 bytes are not 4 layers of 4 heads"):
        check_shards(ours, [PeerShard(b"", (broken,))])


def test_hello_says_which_heads_and_layers_a_rank_holds() -> None:
    endpoint = transfer_pb2.ShardEndpoint(
        shard=common_pb2.Shard(kv_head_start=1, num_kv_heads=1, layer_start=0, num_layers=2),
        metadata=b"m",
        arenas=[transfer_pb2.ArenaRef(group=0, num_blocks=2, block_bytes=8, memory="DRAM")],
    )
    shard = peer_shard(endpoint, [GROUP])
    assert shard.arenas[0].held == ShardSlice((0, 2), (1, 2))
    with pytest.raises(HandoffError, match="several attention groups"):
        peer_shard(endpoint, [GROUP, GROUP])
    endpoint.arenas[0].group = 1
    with pytest.raises(HandoffError, match="group is not one of"):
        peer_shard(endpoint, [GROUP])
    assert group_to_proto(GROUP).num_kv_heads == 2


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (BlockWrite(0, (8,), (0,)), "no such block in group 0 here"),
        (BlockWrite(0, (0,), (-1,)), "no such block in group 0 there"),
        (BlockWrite(1, (0,), (0,)), "no such block in group 1 here"),
        (BlockWrite(0, (0, 1), (0,)), "2 blocks cannot be written to 1"),
        (BlockWrite(0, (0,), (2**40,)), "no such block"),
        (BlockWrite(0, (0,), (0,), 4, 4), "no part 4 of 4"),
        (BlockWrite(0, (0,), (0,), 0, 0), "no part 0 of 0"),
    ],
)
def test_writes_of_what_does_not_exist_are_refused(write: BlockWrite, words: str) -> None:
    arena = rank_arena(whole_slice(SPEC))
    checker = WriteChecker({0: arena}, [PeerShard(b"", (arena,))])
    with pytest.raises(HandoffError, match=words):
        checker.check([write])
    assert len(checker.check([BlockWrite(0, (), ())])[0].local) == 0


def test_elements_are_run_by_run_within_a_block() -> None:
    ids = np.array([3, 1], dtype=np.int32)
    assert elements(ids, 0, 1, 10).tolist() == [3, 1]
    assert elements(ids, 2, 3, 10).tolist() == [23, 21]
    assert elements(ids, 1, 3, 10).tolist() == [13, 23, 11, 21]


# --- bytes that move, in one process ---


class Worker:
    """Ranks of one worker: an arena and a transport each."""

    def __init__(self, name: str, num_ranks: int) -> None:
        self.arenas = [rank_arena(held) for held in divided(num_ranks)]
        self.transports = [InprocTransport(f"{name}-{i}") for i in range(num_ranks)]
        for transport, arena in zip(self.transports, self.arenas, strict=True):
            transport.register([arena])

    @property
    def shards(self) -> list[PeerShard]:
        return [
            PeerShard(transport.endpoint_metadata(), (arena,))
            for transport, arena in zip(self.transports, self.arenas, strict=True)
        ]

    def block(self, block_id: int) -> np.ndarray:
        return logical_block([(arena.held, arena.view[block_id]) for arena in self.arenas])

    def fill(self, seed: int) -> np.ndarray:
        blocks = whole_blocks(8, seed)
        for arena in self.arenas:
            for i, block in enumerate(blocks):
                arena.view[i] = piece(block, arena.held)
        return blocks


def write(
    source: Worker, local: Sequence[int], remote: Sequence[int], num_parts: int
) -> list[list[WriteResult]]:
    """Every rank's parts in order; per rank, a result per part."""
    results: list[list[WriteResult]] = []
    for transport in source.transports:
        done: list[WriteResult] = []
        for part in range(num_parts):
            parts = [BlockWrite(0, tuple(local), tuple(remote), part, num_parts)]
            transport.send("t", parts, done.append, 10)
        results.append(done)
    return results


@pytest.mark.parametrize("num_parts", [1, 3, 4, 9])
@pytest.mark.parametrize(("here", "there"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4)])
def test_blocks_arrive_whatever_the_ranks(here: int, there: int, num_parts: int) -> None:
    source, target = Worker("s", here), Worker("t", there)
    blocks = source.fill(seed=here)
    for transport in source.transports:
        transport.connect("t", target.shards)
    local, remote = [5, 0, 2], [1, 7, 3]
    results = write(source, local, remote, num_parts)
    for i, j in zip(local, remote, strict=True):
        assert np.array_equal(target.block(j), blocks[i])
    for j in {0, 2, 4, 5, 6}:
        assert not target.block(j).any()
    moved = sum(result.num_bytes for rank in results for result in rank)
    assert moved == 3 * SPEC.block_bytes
    for rank, arena in zip(results, source.arenas, strict=True):
        assert all(result.checksums == ((),) for result in rank[:-1])
        # What the target's ranks find in the bytes that came from this one, put together.
        shares = []
        for theirs in target.arenas:
            runs = checksum_runs(theirs, [PeerShard(b"", (arena,))])
            if runs:
                shares.append(block_checksums(theirs, remote, "xxh3", runs[0]))
        found = [sum(numbers) % 2**64 for numbers in zip(*shares, strict=True)]
        assert list(rank[-1].checksums[0]) == found


@pytest.mark.parametrize("algorithm", ["xxh3", "sum64"])
def test_checksums_of_runs_are_those_of_the_bytes_in_a_row(algorithm) -> None:
    arena = rank_arena(whole_slice(SPEC))
    arena.view[0] = np.arange(SPEC.block_bytes) % 251
    runs = ((512, 256), (0, 64), (1024, 8))
    joined = np.concatenate([arena.view[0, a : a + n] for a, n in runs])[None]
    other = Arena(0, 0, 1, joined.shape[1], "DRAM", 0, joined)
    assert block_checksums(arena, [0], algorithm, runs) == block_checksums(other, [0], algorithm)
    assert written_checksums(arena, [0], algorithm, [None]) == block_checksums(
        arena, [0], algorithm
    )
    assert block_checksums(arena, [], algorithm, runs) == []
