"""Each position reaches the client exactly once, in order, and the end exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.errors import (
    BatonError,
    CancelledRequestError,
    DeadlineExceededError,
    HandoffError,
    InvalidRequestError,
    WorkerLostError,
)
from baton.core.request import FinishReason, Request, SamplingParams
from baton.gateway.ownership import Ownership, Side, Verdict
from fakes.sink import RecordingSink

STOP = int(FinishReason.STOP)
DEADLINE = 100.0


def request_of(n: int = 1, max_tokens: int = 6) -> Request:
    return Request(
        "r",
        "m",
        (1, 2, 3),
        SamplingParams(max_tokens=max_tokens),
        seed=1,
        deadline=DEADLINE,
        outputs=dict.fromkeys(range(n), ()),
    )


def begun(
    n: int = 1, max_attempts: int = 3, stop_after: Any = None
) -> tuple[Ownership, RecordingSink]:
    sink = RecordingSink(stop_after)
    ownership = Ownership(request_of(n), sink, max_attempts)
    ownership.begin()
    return ownership, sink


def fail(
    ownership: Ownership,
    side: Side = Side.ALONE,
    error: BatonError | None = None,
    *,
    attempt: int | None = None,
    retryable: bool = True,
    now: float = 0.0,
) -> Verdict:
    return ownership.failed(
        ownership.attempt if attempt is None else attempt,
        side,
        error or WorkerLostError("gone"),
        retryable=retryable,
        now=now,
    )


def test_tokens_pass_in_order_until_the_finish() -> None:
    ownership, sink = begun()
    assert not ownership.row(1, 0, 0, 10, 0, None)
    assert not ownership.row(1, 0, 1, 11, 0, None)
    assert ownership.row(1, 0, 2, 12, STOP, None)
    assert sink.tokens == {0: [10, 11, 12]}
    assert sink.finish == {0: FinishReason.STOP}
    assert sink.ends == [None]


def test_early_rows_wait_for_their_turn() -> None:
    ownership, sink = begun()
    ownership.row(1, 0, 2, 12, STOP, None)
    ownership.row(1, 0, 1, 11, 0, None)
    assert sink.tokens == {}
    assert ownership.row(1, 0, 0, 10, 0, None)
    assert sink.tokens == {0: [10, 11, 12]}
    assert sink.ends == [None]


def test_request_ends_with_its_last_choice() -> None:
    ownership, sink = begun(n=2)
    assert not ownership.row(1, 1, 0, 10, STOP, None)
    assert sink.ends == []
    assert ownership.row(1, 0, 0, 20, STOP, None)
    assert sink.ends == [None]


def test_sink_may_end_a_choice_and_hears_no_more_of_it() -> None:
    ownership, sink = begun(stop_after={0: 2})
    ownership.row(1, 0, 0, 10, 0, None)
    assert ownership.row(1, 0, 1, 11, 0, None)
    assert not ownership.row(1, 0, 2, 12, 0, None)
    assert sink.tokens == {0: [10, 11]}
    assert sink.ends == [None]


def test_rows_held_back_past_a_stop_are_dropped() -> None:
    ownership, sink = begun(stop_after={0: 2})
    for position in (3, 2, 1):
        ownership.row(1, 0, position, 10 + position, 0, None)
    assert ownership.row(1, 0, 0, 10, 0, None)
    assert sink.tokens == {0: [10, 11]}


def test_retry_goes_on_from_the_tokens_given() -> None:
    ownership, sink = begun(n=2)
    ownership.row(1, 0, 0, 10, 0, None)
    ownership.row(1, 0, 2, 12, 0, None)
    ownership.row(1, 1, 0, 20, STOP, None)
    assert fail(ownership) is Verdict.RETRY
    again = ownership.begin()
    assert dict(again.outputs) == {0: (10,)}
    assert (again.seed, again.prompt) == (1, (1, 2, 3))
    ownership.row(1, 0, 1, 99, 0, None)
    # What the failed attempt said early is forgotten: position 2 does not follow by itself.
    ownership.row(2, 0, 1, 11, 0, None)
    assert sink.tokens == {0: [10, 11], 1: [20]}
    assert ownership.row(2, 0, 2, 22, STOP, None)
    assert sink.tokens == {0: [10, 11, 22], 1: [20]}


def test_attempts_without_progress_are_counted() -> None:
    ownership, sink = begun(max_attempts=2)
    assert fail(ownership) is Verdict.RETRY
    ownership.begin()
    ownership.row(2, 0, 0, 10, 0, None)
    assert fail(ownership) is Verdict.RETRY
    ownership.begin()
    assert fail(ownership) is Verdict.RETRY
    ownership.begin()
    error = WorkerLostError("again")
    assert fail(ownership, error=error) is Verdict.ENDED
    assert sink.ends == [error]


def test_choice_that_finished_is_progress() -> None:
    ownership, _ = begun(n=2, max_attempts=1)
    ownership.row(1, 0, 0, 10, STOP, None)
    assert fail(ownership) is Verdict.RETRY


def test_error_that_no_worker_could_mend_ends_the_request() -> None:
    ownership, sink = begun()
    error = InvalidRequestError("too long")
    assert fail(ownership, error=error, retryable=False) is Verdict.ENDED
    assert sink.ends == [error]


def test_failure_after_the_deadline_is_no_retry() -> None:
    ownership, sink = begun()
    assert fail(ownership, now=DEADLINE) is Verdict.ENDED
    assert isinstance(sink.ends[0], DeadlineExceededError)


def test_failure_of_an_earlier_attempt_means_nothing() -> None:
    ownership, sink = begun()
    fail(ownership)
    ownership.begin()
    assert fail(ownership, attempt=1) is Verdict.NOTHING
    assert sink.ends == []


@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.parametrize("first_token", [True, False])
def test_source_may_fail_once_all_it_had_to_give_has_arrived(
    adopted: bool, first_token: bool
) -> None:
    ownership, _ = begun()
    if first_token:
        ownership.row(1, 0, 0, 10, 0, None)
    if adopted:
        ownership.handed_off(1, Side.TARGET)
        # A token of the target does not make up for the source's.
        ownership.row(1, 0, 1, 11, 0, None)
    needless = adopted and first_token
    expected = Verdict.NOTHING if needless else Verdict.RETRY
    assert fail(ownership, Side.SOURCE, HandoffError("x")) is expected


def test_target_that_fails_after_adopting_is_a_retry() -> None:
    ownership, _ = begun()
    ownership.row(1, 0, 0, 10, 0, None)
    ownership.scheduled(1, Side.TARGET, 0)
    assert ownership.is_adopted
    assert fail(ownership, Side.TARGET) is Verdict.RETRY


def test_cached_tokens_come_from_who_computes_the_prompt() -> None:
    ownership, sink = begun()
    ownership.scheduled(1, Side.TARGET, 99)
    ownership.scheduled(1, Side.SOURCE, 16)
    assert sink.cached == [16]


def test_cancel_and_deadline_end_it_once() -> None:
    ownership, sink = begun()
    ownership.cancel("the client went away")
    ownership.cancel("again")
    ownership.expire()
    assert not ownership.row(1, 0, 0, 10, STOP, None)
    assert fail(ownership) is Verdict.NOTHING
    assert len(sink.ends) == 1
    assert isinstance(sink.ends[0], CancelledRequestError)


def test_sink_that_cancels_inside_a_token_ends_there() -> None:
    class Leaver(RecordingSink):
        def on_token(self, *args: Any) -> bool:
            super().on_token(*args)
            ownership.cancel("client gone")
            return False

    sink = Leaver()
    ownership = Ownership(request_of(), sink, 3)
    ownership.begin()
    ownership.row(1, 0, 1, 11, 0, None)
    assert not ownership.row(1, 0, 0, 10, 0, None)
    assert sink.tokens == {0: [10]}
    assert len(sink.ends) == 1


class _Attempt:
    """What its workers still have to say: rows per side, each side in order."""

    def __init__(self, number: int, request: Request, paired: bool, last: dict[int, int]) -> None:
        self.number = number
        self.sides: dict[Side, list[tuple[int, int]]] = {}
        rows = {c: list(range(len(done), last[c] + 1)) for c, done in request.outputs.items()}
        if paired:
            self.sides[Side.SOURCE] = [(c, p[0]) for c, p in rows.items()]
            self.sides[Side.TARGET] = _interleave({c: p[1:] for c, p in rows.items()})
        else:
            self.sides[Side.ALONE] = _interleave(rows)
        self.said: list[tuple[int, int]] = []


def _interleave(rows: dict[int, list[int]]) -> list[tuple[int, int]]:
    longest = max((len(positions) for positions in rows.values()), default=0)
    return [(c, p[i]) for i in range(longest) for c, p in rows.items() if i < len(p)]


class _AttemptSink(RecordingSink):
    """Also checks who speaks: a token's thousands are the attempt that it comes from."""

    ownership: Ownership

    def on_token(self, choice: int, token: int, *rest: Any) -> bool:
        assert token // 1000 == self.ownership.attempt, "an earlier attempt was heard"
        return super().on_token(choice, token, *rest)


class OwnershipMachine(RuleBasedStateMachine):
    """Any interleaving of rows, repeats, failures and attempts, late ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = _AttemptSink({1: 3})
        # The last position of each choice, where its finish is set.
        self.last = {0: 5, 1: 4, 2: 0}
        self.ownership = Ownership(request_of(n=3), self.sink, max_attempts=2)
        self.sink.ownership = self.ownership
        self.attempts: list[_Attempt] = []
        self.wants_attempt = True

    def say(self, attempt: _Attempt, choice: int, position: int) -> None:
        flags = STOP if position == self.last[choice] else 0
        token = attempt.number * 1000 + choice * 100 + position
        self.ownership.row(attempt.number, choice, position, token, flags, None)

    @precondition(lambda self: self.wants_attempt and not self.ownership.ended)
    @rule(paired=st.booleans())
    def begin(self, paired: bool) -> None:
        request = self.ownership.begin()
        for choice, output in request.outputs.items():
            assert list(output) == self.sink.tokens.get(choice, []), "a replay skips or repeats"
            assert choice not in self.sink.finish
        # Only the first attempt is handed over.
        paired = paired and not self.attempts
        self.attempts.append(_Attempt(self.ownership.attempt, request, paired, self.last))
        self.wants_attempt = False

    @precondition(lambda self: any(side for a in self.attempts for side in a.sides.values()))
    @rule(data=st.data(), times=st.integers(1, 4))
    def row(self, data: st.DataObject, times: int) -> None:
        speaking = [(a, side) for a in self.attempts for side in a.sides if a.sides[side]]
        attempt, side = data.draw(st.sampled_from(speaking))
        for _ in range(min(times, len(attempt.sides[side]))):
            choice, position = attempt.sides[side].pop(0)
            attempt.said.append((choice, position))
            self.say(attempt, choice, position)

    @precondition(lambda self: any(a.said for a in self.attempts))
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from([a for a in self.attempts if a.said]))
        self.say(attempt, *data.draw(st.sampled_from(attempt.said)))

    @precondition(lambda self: self.attempts)
    @rule()
    def adopt(self) -> None:
        self.ownership.handed_off(self.attempts[-1].number, Side.TARGET)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), retryable=st.sampled_from([True, True, True, False]))
    def fail(self, data: st.DataObject, retryable: bool) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        side = data.draw(st.sampled_from(sorted(attempt.sides, key=str)))
        is_current = attempt is self.attempts[-1] and not self.wants_attempt
        was_ended = self.ownership.ended
        verdict = fail(self.ownership, side, attempt=attempt.number, retryable=retryable)
        if not is_current and not self.wants_attempt:
            assert verdict is Verdict.NOTHING
        if verdict is Verdict.RETRY:
            self.wants_attempt = True
        if verdict is Verdict.NOTHING and is_current and not was_ended:
            assert side is Side.SOURCE
            assert not attempt.sides[side] or not any(
                choice not in self.sink.finish for choice, _ in attempt.sides[side]
            ), "a source that still had tokens to give was let go"
        if verdict is not Verdict.NOTHING:
            attempt.sides[side] = []

    @precondition(lambda self: len(self.attempts) > 2)
    @rule()
    def cancel(self) -> None:
        self.ownership.cancel("gone")

    @invariant()
    def each_position_is_given_once_in_order(self) -> None:
        for choice, tokens in self.sink.tokens.items():
            assert [t % 1000 for t in tokens] == [choice * 100 + p for p in range(len(tokens))]

    @invariant()
    def it_ends_when_and_only_when_it_should(self) -> None:
        assert len(self.sink.ends) == int(self.ownership.ended)
        if len(self.sink.finish) == 3:
            assert self.sink.ends == [None]
        elif self.ownership.ended:
            assert self.sink.ends[0] is not None

    def teardown(self) -> None:
        """Whatever happened, one last undisturbed attempt completes what has not ended."""
        if self.ownership.ended or not self.attempts:
            return
        if not self.wants_attempt and fail(self.ownership, Side.TARGET) is Verdict.ENDED:
            return
        request = self.ownership.begin()
        attempt = _Attempt(self.ownership.attempt, request, False, self.last)
        for choice, position in attempt.sides[Side.ALONE]:
            self.say(attempt, choice, position)
        assert self.sink.ends == [None]
        assert {c: len(t) for c, t in self.sink.tokens.items()} == {0: 6, 1: 3, 2: 1}


TestOwnershipMachine = OwnershipMachine.TestCase
TestOwnershipMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
