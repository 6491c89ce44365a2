"""A request that is moved while it is decoded: each position once, in order, and one end."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.errors import WorkerLostError
from baton.core.request import FinishReason, Request, SamplingParams
from baton.gateway.ownership import Ownership, Progress, Side, Verdict
from fakes.sink import RecordingSink

STOP = int(FinishReason.STOP)


def begun(n: int = 1, max_tokens: int = 6) -> tuple[Ownership, RecordingSink]:
    sink = RecordingSink()
    sampling = SamplingParams(max_tokens=max_tokens)
    outputs: dict[int, tuple[int, ...]] = dict.fromkeys(range(n), ())
    request = Request("r", "m", (1, 2, 3), sampling, seed=1, deadline=100.0, outputs=outputs)
    ownership = Ownership(request, sink, 100)
    ownership.begin()
    return ownership, sink


def fail(ownership: Ownership, side: Side) -> Verdict:
    error = WorkerLostError("x")
    return ownership.failed(ownership.attempt, side, error, retryable=True, now=0)


def moved() -> tuple[Ownership, RecordingSink]:
    """Two tokens came from the one who decoded before; its heir has adopted."""
    ownership, sink = begun()
    for position in (0, 1):
        ownership.row(1, 0, position, position, 0, None)
    assert ownership.is_movable
    assert dict(ownership.so_far().outputs) == {0: (0, 1)}
    ownership.taken_over(1)
    return ownership, sink


def test_heir_goes_on_inside_the_attempt() -> None:
    ownership, sink = moved()
    ownership.row(1, 0, 3, 3, 0, None)
    assert sink.tokens == {0: [0, 1]}, "the last rows of the other one come first"
    ownership.row(1, 0, 2, 2, 0, None)
    ownership.handed_off(1, Side.SOURCE)
    assert ownership.row(1, 0, 4, 4, STOP, None) is Progress.ENDED
    assert sink.tokens == {0: [0, 1, 2, 3, 4]}
    assert ownership.attempt == 1


def test_who_handed_over_may_be_lost() -> None:
    ownership, sink = moved()
    assert ownership.lost(1, Side.SOURCE, WorkerLostError("x"), now=0) is Verdict.NOTHING
    assert ownership.row(1, 0, 2, 2, 0, None) is Progress.GOES_ON
    assert sink.tokens == {0: [0, 1, 2]}


@pytest.mark.parametrize("row_first", [True, False])
def test_rows_lost_with_who_handed_over_are_made_again(row_first: bool) -> None:
    ownership, sink = moved()
    if row_first:
        ownership.row(1, 0, 3, 3, 0, None)
        verdict = ownership.lost(1, Side.SOURCE, WorkerLostError("x"), now=0)
    else:
        ownership.lost(1, Side.SOURCE, WorkerLostError("x"), now=0)
        assert ownership.row(1, 0, 3, 3, 0, None) is Progress.GAP
        verdict = ownership.gap(1, WorkerLostError("x"), now=0)
    assert verdict is Verdict.RETRY
    assert dict(ownership.begin().outputs) == {0: (0, 1)}
    assert sink.tokens == {0: [0, 1]}


def test_who_decodes_is_lost_before_its_heir_adopted() -> None:
    ownership, _ = begun()
    ownership.row(1, 0, 0, 0, 0, None)
    assert ownership.lost(1, Side.ALONE, WorkerLostError("x"), now=0) is Verdict.RETRY


def test_several_choices_are_not_moved() -> None:
    ownership, _ = begun(n=2)
    ownership.row(1, 0, 0, 0, 0, None)
    ownership.row(1, 1, 0, 0, STOP, None)
    assert not ownership.is_movable
    ownership.begin()
    assert not ownership.is_movable, "nothing has come yet"
    ownership.row(2, 0, 1, 0, 0, None)
    assert ownership.is_movable


@pytest.mark.parametrize("adopted", [True, False])
def test_lost_source_that_may_have_committed_waits_for_the_targets_word(adopted: bool) -> None:
    ownership, _ = begun()
    ownership.row(1, 0, 0, 10, 0, None)
    error = WorkerLostError("x")
    assert ownership.lost(1, Side.SOURCE, error, now=0) is Verdict.WAIT
    if adopted:
        ownership.handed_off(1, Side.TARGET)
    expected = Verdict.NOTHING if adopted else Verdict.RETRY
    assert fail(ownership, Side.SOURCE) is expected


def test_source_lost_before_its_first_token_is_no_wait() -> None:
    ownership, _ = begun()
    assert ownership.lost(1, Side.SOURCE, WorkerLostError("x"), now=0) is Verdict.RETRY


class _Worker:
    """A part of an attempt as the world has it, and what it said that has not arrived."""

    def __init__(self, side: Side, next_position: int) -> None:
        self.side = side
        self.next = next_position
        self.is_open = True
        self.is_alive = True
        self.wire: list[tuple[str, int]] = []


class MoveMachine(RuleBasedStateMachine):
    """One choice that is moved, replayed and lost, with everything said arriving late."""

    LAST = 9

    def __init__(self) -> None:
        super().__init__()
        self.ownership, self.sink = begun(max_tokens=self.LAST + 1)
        self.workers: list[_Worker] = []
        # Who has the KV, and who is to get it.
        self.holder: _Worker | None = None
        self.heir: _Worker | None = None
        self.place(0)

    def place(self, next_position: int) -> None:
        """The attempt's first worker."""
        for worker in self.workers:
            worker.is_open = False
        self.holder = _Worker(Side.ALONE, next_position)
        self.heir = None
        self.workers = [self.holder]
        # It can be moved as soon as something has come.
        self.generate(times=1)
        self.take(self.holder, *self.holder.wire.pop(0))

    def follow(self, verdict: Verdict) -> None:
        assert verdict in (Verdict.NOTHING, Verdict.RETRY)
        if verdict is Verdict.RETRY:
            output = self.ownership.begin().outputs[0]
            assert list(output) == self.sink.tokens.get(0, [])
            self.place(len(output))

    # --- the world ---

    @precondition(lambda self: self.holder is not None and self.holder.next <= self.LAST)
    @rule(times=st.integers(1, 2))
    def generate(self, times: int) -> None:
        holder = self.holder
        assert holder is not None
        for _ in range(min(times, self.LAST + 1 - holder.next)):
            holder.wire.append(("row", holder.next))
            holder.next += 1

    @precondition(lambda self: self.heir is None and not self.ownership.ended)
    @rule()
    def move(self) -> None:
        opened = [w for w in self.workers if w.is_open]
        if not self.ownership.is_movable or len(opened) != 1 or opened[0] is not self.holder:
            return
        (output,) = self.ownership.so_far().outputs.values()
        assert list(output) == self.sink.tokens[0]
        self.heir = _Worker(Side.HEIR, len(output))
        self.workers.append(self.heir)

    @precondition(lambda self: self.heir is not None and self.heir.side is Side.HEIR)
    @rule(succeeds=st.sampled_from([True, True, False]), tail=st.integers(1, 2))
    def settle(self, succeeds: bool, tail: int) -> None:
        """The two agree on the handover; each has yet to tell."""
        heir, holder = self.heir, self.holder
        assert heir is not None
        if heir.wire or holder is None or not heir.is_alive:
            return
        # Made while the KV was copied.
        self.generate(times=tail)
        if holder.next == heir.next:
            return
        if succeeds and holder.next <= self.LAST:
            heir.next = holder.next
            heir.wire.append(("adopted", 0))
            holder.wire.append(("given_up", 0))
            self.holder = heir
        elif not succeeds or holder.next > self.LAST:
            heir.wire.append(("refused", 0))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), luck=st.integers(0, 3))
    def lose(self, data: st.DataObject, luck: int) -> None:
        if luck:
            return
        worker = data.draw(st.sampled_from(self.workers))
        worker.is_alive = False
        worker.wire.clear()
        if worker is self.holder:
            self.holder = None
        if not worker.is_open:
            return
        worker.is_open = False
        if worker.side is Side.HEIR:
            self.give_up(worker)
        else:
            error = WorkerLostError("x")
            self.follow(self.ownership.lost(self.ownership.attempt, worker.side, error, now=0))

    def give_up(self, heir: _Worker) -> None:
        heir.is_open = False
        self.heir = None

    # --- the gateway ---

    @precondition(lambda self: any(w.wire and w.is_open for w in self.workers))
    @rule(data=st.data(), times=st.integers(1, 4))
    def hear(self, data: st.DataObject, times: int) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers if w.wire and w.is_open]))
        for _ in range(times):
            if worker.wire and worker.is_open:
                self.take(worker, *worker.wire.pop(0))

    def take(self, worker: _Worker, kind: str, position: int) -> None:
        ownership, attempt = self.ownership, self.ownership.attempt
        if kind == "row":
            if worker.side is Side.HEIR:
                self.take_over(worker)
            flags = STOP if position == self.LAST else 0
            if ownership.row(attempt, 0, position, position, flags, None) is Progress.GAP:
                self.follow(ownership.gap(attempt, WorkerLostError("x"), now=0))
        elif kind == "adopted":
            self.take_over(worker)
        elif kind == "refused":
            self.give_up(worker)
        elif kind == "given_up":
            if self.heir is not None:
                self.take_over(self.heir)
            if worker.side is Side.SOURCE:
                worker.is_open = False
                ownership.handed_off(attempt, Side.SOURCE)
            else:
                self.follow(fail(ownership, worker.side))

    def take_over(self, heir: _Worker) -> None:
        if heir.side is Side.HEIR:
            for worker in self.workers:
                if worker is not heir:
                    worker.side = Side.SOURCE
            heir.side = Side.TARGET
            self.ownership.taken_over(self.ownership.attempt)
            self.heir = None

    @invariant()
    def each_position_comes_once_in_order(self) -> None:
        tokens = self.sink.tokens.get(0, [])
        assert tokens == list(range(len(tokens)))
        assert self.sink.ends == ([None] if len(tokens) == self.LAST + 1 else [])

    def teardown(self) -> None:
        """Once nothing is lost any more, the request completes."""
        for _ in range(100):
            if self.ownership.ended:
                break
            opened = [w for w in self.workers if w.is_open and w.wire]
            if opened:
                self.take(opened[0], *opened[0].wire.pop(0))
            elif self.holder is not None and self.holder.next <= self.LAST:
                self.generate(times=1)
        assert self.sink.ends == [None]


TestMoveMachine = MoveMachine.TestCase
TestMoveMachine.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
