"""Which of a submission's rows are due, and that each reaches its gateway once, in order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.core.request import FinishReason, TokenLogprobs
from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.wire.frames import FrameColumns, frame_logprobs
from baton.worker.slot_log import SlotLog

SLOT = 7
KEY = ("s", SLOT)


def log_of(interval: int, *outputs: Sequence[int]) -> SlotLog:
    """Of a submission with so many choices, each with the tokens that it has already."""
    choices = [session_pb2.Choice(index=i, output_so_far=o) for i, o in enumerate(outputs)]
    return SlotLog(session_pb2.Submit(slot=SLOT, choices=choices, stream_interval=interval))


def row(position: int, choice: int = 0, finish: FinishReason | None = None) -> TokenRow:
    # Half of them with logprobs, which go by the number of the row in its frame.
    logprobs = TokenLogprobs(-float(position)) if position % 2 else None
    return TokenRow(KEY, choice, position, 100 * choice + position, finish, logprobs)


def taken(log: SlotLog) -> list[tuple[int, int]]:
    """(choice, position) of what was held."""
    columns = FrameColumns()
    log.take(SLOT, columns)
    frame = columns.frame()
    return list(zip(frame.choice, frame.position, strict=True))


def test_without_an_interval_each_token_is_due() -> None:
    for interval in (0, 1):
        log = log_of(interval, [])
        assert all(log.add(row(position)) for position in range(5))


def test_first_token_of_each_choice_is_due() -> None:
    log = log_of(8, [], [])
    assert log.add(row(0))
    assert log.add(row(0, choice=1))
    assert not log.add(row(1))


def test_first_token_of_a_replay_is_due() -> None:
    log = log_of(8, [1, 2, 3])
    assert log.add(row(3))
    assert not log.add(row(4))


def test_target_of_a_handoff_begins_behind_the_first_token() -> None:
    log = log_of(8, [])
    assert not log.add(row(1))


def test_a_full_run_is_due() -> None:
    log = log_of(3, [])
    assert [log.add(row(p)) for p in range(1, 4)] == [False, False, True]
    assert taken(log) == [(0, 1), (0, 2), (0, 3)]
    assert not log.add(row(4))
    assert log.num_held == 1


def test_last_token_is_due_with_all_before() -> None:
    log = log_of(1000, [])
    assert [log.add(row(p)) for p in range(1, 4)] == [False] * 3
    assert log.add(row(4, finish=FinishReason.LENGTH))
    assert taken(log) == [(0, p) for p in range(1, 5)]
    assert log.num_held == 0


class Gateway(RuleBasedStateMachine):
    """A log whose frames may be lost with the stream that carries them."""

    @initialize(
        interval=st.integers(0, 6),
        starts=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        behind=st.integers(0, 1),
    )
    def begin(self, interval: int, starts: list[int], behind: int) -> None:
        self.interval = interval
        self.log = log_of(interval, *([0] * n for n in starts))
        # What each choice generates next; a target's tokens begin behind the source's first.
        self.next_made = [n + behind for n in starts]
        self.received = list(self.next_made)
        self.ended = [False] * len(starts)
        self.on_the_way: list[session_pb2.Frame] = []
        self.is_due = False

    def _take(self, frame: session_pb2.Frame) -> None:
        logprobs = frame_logprobs(frame)
        rows = zip(frame.slot, frame.choice, frame.position, frame.token, strict=True)
        for number, (slot, choice, position, token) in enumerate(rows):
            assert slot == SLOT
            assert position == self.received[choice], "a gap, or a token twice"
            assert token == 100 * choice + position
            assert (number in logprobs) == bool(position % 2)
            self.received[choice] += 1

    def _send(self) -> None:
        columns = FrameColumns()
        self.log.take(SLOT, columns)
        self.on_the_way.append(columns.frame())
        self.is_due = False

    @precondition(lambda self: not all(self.ended))
    @rule(data=st.data(), ends=st.booleans())
    def step(self, data: st.DataObject, ends: bool) -> None:
        choice = data.draw(st.sampled_from([i for i, e in enumerate(self.ended) if not e]))
        finish = FinishReason.STOP if ends else None
        self.ended[choice] = ends
        self.is_due |= self.log.add(row(self.next_made[choice], choice, finish))
        self.next_made[choice] += 1
        if ends:
            assert self.is_due

    @rule()
    def write(self) -> None:
        """The stream's writer finds the log due, or takes what is held all the same."""
        self._send()

    @precondition(lambda self: self.on_the_way)
    @rule()
    def arrive(self) -> None:
        self._take(self.on_the_way.pop(0))

    @rule()
    def break_and_resume(self) -> None:
        """Frames are lost, and the gateway says where it is; those before may have arrived."""
        self.on_the_way.clear()
        columns = FrameColumns()
        self.log.resume(SLOT, dict(enumerate(self.received)), columns)
        self.on_the_way.append(columns.frame())
        self.is_due = False

    @invariant()
    def only_a_run_is_held_back(self) -> None:
        if hasattr(self, "log") and not self.is_due:
            assert self.log.num_held < max(1, self.interval)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self._send()
        for frame in self.on_the_way:
            self._take(frame)
        assert self.received == self.next_made, "a token is missing"


Gateway.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestEachTokenOnce = Gateway.TestCase
