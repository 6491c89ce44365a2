"""Which sequences move: off workers that drain, and off those that lack blocks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from baton.router.columns import Columns, Role
from baton.router.rebalance import (
    HURRY_S,
    MIN_REMAINING,
    PLENTY_SHARE,
    RELIEF_SHARE,
    REPLAY_S,
    RunningSlot,
    SlotMove,
    UnderWay,
    must_be_replayed,
    rebalance,
)


def workers(*free: int, num_blocks: int = 100, role: Role = Role.DECODE) -> Columns:
    """Like workers with this many blocks free each."""
    columns = Columns(len(free))
    columns.used[:] = columns.up[:] = True
    columns.role[:] = role
    columns.num_blocks[:] = num_blocks
    columns.free_blocks[:] = free
    columns.block_size[:] = 16
    columns.max_sequences[:] = 100
    return columns


def slots(*remaining: int, row: int = 0, num_blocks: int = 2) -> list[RunningSlot]:
    return [RunningSlot(row, num_blocks, tokens) for tokens in remaining]


def moved(
    columns: Columns, running: list[RunningSlot], under_way: UnderWay | None = None, most: int = 8
) -> list[SlotMove]:
    return rebalance(columns, running, under_way or UnderWay(), most)


def test_calm_workers_keep_what_they_have() -> None:
    assert moved(workers(1, 90), slots(100, 100)) == []


def test_drain_takes_the_largest_remaining_work_first() -> None:
    columns = workers(50, 50)
    columns.draining[0] = True
    found = moved(columns, slots(20, 200, MIN_REMAINING - 1, 90))
    assert [move.slot for move in found] == [1, 3, 0]
    assert {(move.target, move.reason) for move in found} == {(1, "drain")}


def test_drain_spreads_over_who_has_most_room() -> None:
    columns = workers(0, 12, 11, 9)
    columns.draining[0] = True
    found = moved(columns, slots(*range(100, 93, -1), num_blocks=2))
    assert Counter(move.target for move in found) == {1: 3, 2: 3, 3: 1}


def test_drain_leaves_running_sequences_their_next_block() -> None:
    columns = workers(0, 10)
    columns.draining[0] = True
    columns.num_running[1] = 7
    assert [move.slot for move in moved(columns, slots(50, 60, num_blocks=2))] == [1]


def test_moves_under_way_count() -> None:
    columns = workers(0, 90, 90)
    columns.draining[0] = True
    assert moved(columns, slots(50), UnderWay(giving={0: 2}), most=2) == []
    (move,) = moved(columns, slots(50), UnderWay(giving={0: 1}, taking={1: 2}), most=2)
    assert move.target == 2


def test_nothing_moves_where_kv_cannot() -> None:
    columns = workers(50, 50, 50, 50, 50, 50, 50)
    columns.draining[0] = columns.draining[1] = True
    columns.digest[2] = 7
    columns.model[3] = 7
    columns.role[4] = Role.PREFILL
    columns.up[5] = False
    columns.short_of_blocks[6] = True
    assert moved(columns, slots(100)) == []


def test_full_batch_takes_nobody() -> None:
    columns = workers(50, 50)
    columns.draining[0] = True
    columns.inflight[1] = 99
    assert len(moved(columns, slots(100, 100))) == 1


def test_shortage_moves_the_few_that_relieve_it() -> None:
    columns = workers(1, 90)
    columns.short_of_blocks[0] = True
    running = [RunningSlot(0, blocks, 100) for blocks in (3, 6, 2, 5, 4)]
    assert [move.slot for move in moved(columns, running)] == [1, 3]
    # What is on its way out counts.
    assert moved(columns, running, UnderWay({0: 2}, {1: 2}, {0: 9})) == []


def test_shortage_waits_for_a_worker_with_plenty() -> None:
    columns = workers(1, int(PLENTY_SHARE * 100) + 3)
    columns.short_of_blocks[0] = True
    assert moved(columns, [RunningSlot(0, 4, 100)]) == []
    assert len(moved(columns, [RunningSlot(0, 3, 100)])) == 1


def test_what_was_moved_lately_stays_unless_its_worker_drains() -> None:
    columns = workers(1, 90)
    running = [RunningSlot(0, 4, 100, is_rested=False)]
    columns.short_of_blocks[0] = True
    assert moved(columns, running) == []
    columns.draining[0] = True
    assert len(moved(columns, running)) == 1


@given(data=st.data(), most=st.integers(0, 4))
def test_no_plan_breaks_the_rules(data: st.DataObject, most: int) -> None:
    num = data.draw(st.integers(1, 6))
    columns = workers(*data.draw(st.lists(st.integers(0, 100), min_size=num, max_size=num)))
    for name in ("used", "up", "draining", "short_of_blocks"):
        getattr(columns, name)[:] = data.draw(st.lists(st.booleans(), min_size=num, max_size=num))
    columns.role[:] = data.draw(st.lists(st.sampled_from(list(Role)), min_size=num, max_size=num))
    columns.booked_blocks[:] = data.draw(st.lists(st.integers(0, 30), min_size=num, max_size=num))
    slot = st.builds(
        RunningSlot, st.integers(0, num - 1), st.integers(1, 40), st.integers(1, 50), st.booleans()
    )
    running = data.draw(st.lists(slot, max_size=20))
    rows = st.dictionaries(st.integers(0, num - 1), st.integers(0, 3))
    under_way = UnderWay(data.draw(rows), data.draw(rows))
    found = moved(columns, running, under_way, most)

    assert len({move.slot for move in found}) == len(found)
    giving, taking = Counter(under_way.giving), Counter(under_way.taking)
    blocks: Counter[int] = Counter()
    for move in found:
        origin, target = running[move.slot].row, move.target
        giving[origin] += 1
        taking[target] += 1
        blocks[target] += running[move.slot].num_blocks
        assert giving[origin] <= most and taking[target] <= most
        assert columns.used[target] and columns.up[target] and target != origin
        assert not columns.draining[target] and not columns.short_of_blocks[target]
        assert columns.role[target] != Role.PREFILL
        assert columns.draining[origin] or columns.free_blocks[origin] < RELIEF_SHARE * 100
    for target, taken in blocks.items():
        assert taken <= columns.free_blocks[target] - columns.booked_blocks[target]


def test_worker_that_goes_away_soon_gives_everything_at_once() -> None:
    columns = workers(50, 90)
    columns.draining[0] = True
    running = slots(*[100] * 20)
    assert len(rebalance(columns, running, UnderWay(), 8, {0: HURRY_S + 1})) == 8
    assert len(rebalance(columns, running, UnderWay({0: 8}, {1: 8}, {}), 8, {0: HURRY_S})) == 20
    assert not rebalance(columns, running, UnderWay(), 0, {0: HURRY_S}), "0 moves none"


def test_what_cannot_be_moved_is_replayed_when_there_is_an_elsewhere() -> None:
    columns = workers(50, 0, 50)
    columns.draining[0] = True
    columns.role[2] = Role.PREFILL
    assert must_be_replayed(columns, 0, REPLAY_S)
    assert not must_be_replayed(columns, 0, REPLAY_S + 0.1)
    columns.draining[1] = True
    assert not must_be_replayed(columns, 0, REPLAY_S)
