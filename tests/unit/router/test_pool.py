from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.router.pool import Booking, Pool
from baton.v1 import common_pb2, session_pb2


def lease(worker_id: str, role: int = common_pb2.WORKER_ROLE_ANY, **fields: Any) -> Any:
    capacity = common_pb2.Capacity(
        num_blocks=100, block_size=16, max_sequences=10, max_batch_tokens=64
    )
    return common_pb2.WorkerLease(
        worker=common_pb2.WorkerRef(worker_id=worker_id, epoch=1),
        role=role,  # type: ignore[arg-type]
        **({"model": "m", "digest": "d", "capacity": capacity} | fields),
    )


def test_new_worker_is_a_candidate_only_once_it_is_up() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    assert list(pool.candidates("m")) == []
    pool.set_up(row, True)
    assert list(pool.candidates("m")) == [row]
    pool.report(row, session_pb2.Load(draining=True))
    assert list(pool.candidates("m")) == []


def test_models_are_kept_apart() -> None:
    pool = Pool()
    for name in ("one", "two"):
        pool.set_up(pool.add(lease(name, model=name)), True)
    assert [pool.worker_id(int(r)) for r in pool.candidates("two")] == ["two"]
    assert list(pool.candidates("three")) == []


def test_worker_without_a_report_counts_as_idle() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    assert pool.columns.queue_room[row] == 10
    assert pool.columns.free_blocks[row] == 100


def test_prompts_that_take_no_time_stall_nobody() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    # A fit may find that a prompt's length does not matter.
    pool.columns.prefill_s_per_token[row] = 0.0
    pool.book(row, sequences=1, tokens=30, blocks=3)
    assert pool.columns.interleaved[row] == 0.0


def test_report_takes_over_what_was_placed_before_it() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    early = pool.book(row, sequences=2, tokens=30, blocks=3)
    columns = pool.columns
    assert columns.unreported_tokens[row] == 30
    pool.report(row, session_pb2.Load(queued_prefill_tokens=30))
    late = pool.book(row, sequences=1, tokens=5, blocks=1)
    pool.end(early)
    assert (columns.unreported[row], columns.unreported_tokens[row]) == (1, 5)
    assert columns.inflight[row] == 1
    pool.end(late)
    assert (columns.unreported[row], columns.unreported_tokens[row]) == (0, 0)


def test_report_knows_only_of_submissions_that_had_arrived() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    columns = pool.columns
    pool.report(row, session_pb2.Load(queue_room=2))
    first = pool.book(row, sequences=1, tokens=90, blocks=3)
    second = pool.book(row, sequences=1, tokens=50, blocks=1, cached_tokens=16)
    first.slot, second.slot = 7, 8
    # Sent before the second one came.
    load = session_pb2.Load(queue_room=1, num_waiting=1, queued_prefill_tokens=90, newest_slot=7)
    pool.report(row, load)
    assert (columns.unreported[row], columns.unreported_tokens[row]) == (1, 50)
    assert not pool.columns.has_room[row]
    assert pool.columns.sequences[row] == 2
    assert columns.credited_tokens[row] == 0
    pool.report(row, session_pb2.Load(queue_room=1, num_waiting=2, newest_slot=8))
    assert columns.unreported[row] == columns.unreported_tokens[row] == 0
    assert pool.columns.has_room[row]
    assert columns.credited_tokens[row] == 16
    pool.end(second)
    assert columns.credited_tokens[row] == columns.unreported[row] == 0


def test_short_prompts_fill_a_queue_by_their_tokens() -> None:
    """A worker says how many prompts of mean length it takes."""
    pool = Pool()
    row = pool.add(lease("a"))
    pool.report(row, session_pb2.Load(queue_room=1))
    rooms = []
    for _ in range(5):
        rooms.append(bool(pool.columns.has_room[row]))
        pool.book(row, sequences=1, tokens=32, blocks=2)
    # Two steps of 64 tokens.
    assert rooms == [True] * 4 + [False]
    pool.report(row, session_pb2.Load(queue_room=0, newest_slot=1))
    assert not pool.columns.has_room[row]


def test_booking_of_a_lost_worker_does_not_touch_its_successor() -> None:
    pool = Pool()
    row = pool.add(lease("old"))
    booking = pool.book(row, sequences=1, tokens=5, blocks=1)
    pool.remove(row)
    assert pool.add(lease("new")) == row
    pool.begin(booking)
    pool.end(booking)
    assert pool.columns.inflight[row] == pool.columns.booked_blocks[row] == 0


def test_role_change_keeps_the_row_and_its_placements() -> None:
    pool = Pool()
    row = pool.add(lease("a"))
    pool.book(row, sequences=1, tokens=5, blocks=1)
    pool.update(row, lease("a", common_pb2.WORKER_ROLE_DECODE))
    assert pool.columns.role[row] == common_pb2.WORKER_ROLE_DECODE
    assert pool.columns.inflight[row] == 1


class PoolMachine(RuleBasedStateMachine):
    """Rows stay put while workers come and go, and counts always equal the open bookings."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.rows: dict[str, int] = {}
        self.open: list[tuple[str, Booking]] = []
        self.stale: list[Booking] = []
        self.count = 0
        self.next_slot = 1
        # By worker, the newest slot that its reports know of.
        self.known: dict[str, int] = {}

    @rule()
    def add(self) -> None:
        self.count += 1
        name = f"w{self.count}"
        self.rows[name] = self.pool.add(lease(name))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.rows)))
        self.pool.remove(self.rows.pop(name))
        self.stale += [booking for owner, booking in self.open if owner == name]
        self.open = [(owner, booking) for owner, booking in self.open if owner != name]

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), tokens=st.integers(0, 9))
    def book(self, data: st.DataObject, tokens: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.rows)))
        booking = self.pool.book(
            self.rows[name], sequences=2, tokens=tokens, blocks=3, cached_tokens=2
        )
        booking.slot = self.next_slot
        self.next_slot += 1
        self.open.append((name, booking))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.pool.begin(data.draw(st.sampled_from(self.open))[1])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.open))
        self.pool.end(entry[1])
        self.open.remove(entry)
        self.stale.append(entry[1])

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def end_again(self, data: st.DataObject) -> None:
        self.pool.end(data.draw(st.sampled_from(self.stale)))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.rows)))
        newest = data.draw(st.integers(self.known.get(name, 0), self.next_slot - 1))
        self.known[name] = newest
        self.pool.report(self.rows[name], session_pb2.Load(queue_room=1, newest_slot=newest))

    @invariant()
    def rows_are_stable_and_distinct(self) -> None:
        assert len(set(self.rows.values())) == len(self.rows) == len(self.pool)
        for name, row in self.rows.items():
            assert self.pool.worker_id(row) == name

    @invariant()
    def counts_equal_the_open_bookings(self) -> None:
        columns = self.pool.columns
        for name, row in self.rows.items():
            mine = [booking for owner, booking in self.open if owner == name]
            assert columns.inflight[row] == sum(b.sequences for b in mine)
            assert columns.booked_blocks[row] == sum(b.blocks for b in mine if not b.begun)
            computing = [b for b in mine if b.tokens]
            fresh = [b for b in computing if b.slot > self.known.get(name, 0)]
            credited = [b for b in computing if b not in fresh and not b.begun]
            assert columns.credited_tokens[row] == sum(b.cached_tokens for b in credited)
            assert columns.unreported_sequences[row] == sum(b.sequences for b in fresh)
            assert columns.unreported[row] == len(fresh)
            assert columns.unreported_tokens[row] == sum(b.tokens for b in fresh)

    @invariant()
    def columns_stay_near_the_number_of_workers(self) -> None:
        highest = max(self.rows.values(), default=0)
        assert len(self.pool.columns) <= max(32, 8 * (highest + 1))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
