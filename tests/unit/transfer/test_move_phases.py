"""Moving a sequence that decodes on: what both machines do over several events, and in doubt."""

from __future__ import annotations

import pytest

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.handoff import SourceOutput
from baton.transfer import messages, state
from baton.transfer.source_state import SourceState
from baton.transfer.target_state import TargetHandoff, TargetState
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    DEADLINE,
    HASHES,
    IDENTITY,
    MOVE_DUE,
    ROOMY,
    SETTINGS,
    names,
    ready,
    received,
    stopped,
    written,
)
from fakes.source_situations import NOW, copying, move_committed, stopping

THREE = {0: SourceOutput((7, 8, 9), None)}


def target(due: state.Due = MOVE_DUE) -> TargetHandoff:
    machine = TargetHandoff(IDENTITY, {0}, 1, DEADLINE, SETTINGS, NOW)
    machine.handle(received("offer", messages.offer_body(due, {0}, 5.0)), NOW)
    machine.handle(state.Reserved(ROOMY, AGENT), NOW)
    return machine


def test_it_stops_once_the_copy_has_caught_up_and_commits_what_came() -> None:
    machine = copying()
    assert names(machine.handle(ready(2, 1), NOW)) == ["write"]
    assert machine.handle(written(0, (1, 2)), NOW) == [], "a block is under way"
    assert names(machine.handle(written(1, (3,)), NOW)) == ["stopmove"]
    assert not machine.holds_up
    assert names(machine.handle(stopped(3, 1, THREE), NOW)) == ["write"]
    assert machine.holds_up
    (sent,) = machine.handle(written(2, (4,)), NOW)
    commit = sent.message.commit
    assert list(commit.sequences[0].output) == [7, 8, 9]
    group = commit.shards[0].groups[0]
    assert list(group.index) == [0, 1, 2, 3]
    assert group.hashes == b"".join(HASHES) + b"c" * 16


def test_unused_room_is_not_in_the_commit() -> None:
    machine = stopping()
    (sent,) = machine.handle(written(1, (3,)), NOW)
    group = sent.message.commit.shards[0].groups[0]
    assert (list(group.index), list(group.checksum)) == ([0, 1, 2], [1, 2, 3])


def test_it_is_asked_to_stop_only_once() -> None:
    machine = copying()
    assert names(machine.handle(written(0, (1, 2)), NOW)) == ["stopmove"]
    machine.handle(ready(2, 1), NOW)
    assert machine.handle(written(1, (3,)), NOW) == []


def test_a_long_stop_is_given_up_before_the_commit() -> None:
    machine = stopping()
    assert machine.due_at == NOW + SETTINGS.stop_wait_s
    fail, report = machine.handle(state.Tick(), machine.due_at)
    assert names([fail]) == ["fail"]
    assert isinstance(report, state.Report) and not report.in_doubt
    assert machine.state is SourceState.SETTLING, "the blocks are read still"


@pytest.mark.parametrize(
    ("event", "in_doubt"),
    [
        (received("rejected", pb.Rejected(code="checksum_mismatch")), False),
        (received("cancel", pb.CancelHandoff(reason="client gone")), False),
        # It has forgotten the handoff, and what it did with it.
        (received("rejected", pb.Rejected(code=state.UNKNOWN)), True),
        (received("fail", pb.Fail(code=state.UNKNOWN)), True),
        (state.PeerLost("gone"), True),
        (state.PeerDead(), True),
    ],
)
def test_after_the_commit_only_a_refusal_leaves_no_doubt(
    event: state.Event, in_doubt: bool
) -> None:
    (report,) = [a for a in move_committed().handle(event, NOW) if isinstance(a, state.Report)]
    assert report.error is not None and report.in_doubt is in_doubt
    (report,) = [a for a in stopping().handle(event, NOW) if isinstance(a, state.Report)]
    assert not report.in_doubt, "it has not committed"


def test_no_verdict_and_the_deadline_leave_a_doubt() -> None:
    machine = move_committed()
    for _ in range(SETTINGS.status_tries):
        machine.handle(state.Tick(), machine.due_at)
    report = machine.handle(state.Tick(), machine.due_at)[1]
    assert isinstance(report, state.Report) and report.in_doubt
    report = move_committed().handle(state.Tick(), DEADLINE)[1]
    assert isinstance(report, state.Report) and report.in_doubt


def commit_of(count: int, **how: object) -> state.Received:
    """As a source commits `count` of the four granted blocks."""
    grant = messages.GroupGrant()
    messages.read_grant(messages.grant_body(ROOMY, AGENT), [grant], MOVE_DUE)
    hashes = (*HASHES, *(bytes([i]) * 16 for i in range(2, count - 1)))
    due = state.Due(10, (how.get("hashes", hashes),), (count,), 6)  # type: ignore[arg-type]
    sums = {i: i for i in range(count)}
    return received("commit", messages.commit_body(due, THREE, [grant], [sums]))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_target_has_what_came_checked(count: int) -> None:
    machine = target()
    (verify,) = machine.handle(commit_of(count), NOW)
    assert isinstance(verify, state.Verify)
    assert verify.checks[0].block_ids == tuple(range(20, 20 + count))
    assert verify.num_blocks == (count,)
    assert verify.hashes[0][:2] == HASHES
    assert machine.holds_up
    assert names(machine.handle(state.Verified(None), NOW)) == ["adopt", "accepted", "report"]


def test_target_refuses_a_hole_and_other_hashes() -> None:
    holed = commit_of(4)
    group = holed.message.commit.shards[0].groups[0]
    for column in (group.index, group.block_id, group.generation, group.checksum):
        del column[1]
    for wrong in (holed, commit_of(3, hashes=(HASHES[1], HASHES[0])), commit_of(2, hashes=())):
        machine = target()
        assert names(machine.handle(wrong, NOW)) == ["rejected", "quarantine", "report_failed"]


def test_target_refuses_what_its_engine_says_cannot_be() -> None:
    machine = target()
    machine.handle(commit_of(3), NOW)
    actions = machine.handle(state.Refused(HandoffError("other tokens")), NOW)
    assert names(actions) == ["rejected", "unreserve", "report_failed"]
    assert machine.state is TargetState.DONE


def test_target_bounds_the_room_to_grow() -> None:
    machine = TargetHandoff(IDENTITY, {0}, 1, DEADLINE, SETTINGS, NOW)
    greedy = state.Due(10, (HASHES,), (99,), SETTINGS.max_growth_tokens + 1)
    actions = machine.handle(received("offer", messages.offer_body(greedy, {0}, 5.0)), NOW)
    assert names(actions) == ["rejected", "report_failed"]
    report = actions[1]
    assert isinstance(report, state.Report) and isinstance(report.error, InvalidRequestError)


def test_withdrawal_is_told_from_a_handover() -> None:
    for machine in (target(), TargetHandoff(IDENTITY, {0}, 1, DEADLINE, SETTINGS, NOW)):
        report = machine.handle(received("withdraw", pb.Withdraw()), NOW)[-1]
        assert isinstance(report, state.Report) and report.withdrawn and report.error is None
