"""The source's machine, as a table: for each situation, every event and what must come of it."""

from __future__ import annotations

import pytest
from baton.core.errors import DeadlineExceededError, HandoffError, InvalidRequestError
from baton.transfer import state
from baton.transfer.base import ReservedGroup
from baton.transfer.messages import grant_body
from baton.transfer.source_state import TABLE, SourceHandoff, SourceState
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    DEADLINE,
    DUE,
    ENDED,
    IDENTITY,
    LIVE,
    OUR_ERROR,
    RESERVED,
    SETTINGS,
    SKIPPING,
    commit,
    failed_write,
    names,
    ready,
    received,
    written,
)

NOW = 1.0
INF = float("inf")


def waiting() -> SourceHandoff:
    return SourceHandoff(IDENTITY, {0}, DEADLINE, SETTINGS)


def offered() -> SourceHandoff:
    machine = waiting()
    machine.handle(DUE, NOW)
    return machine


def sending() -> SourceHandoff:
    """Granted; two of three blocks are in flight as write 0."""
    machine = offered()
    machine.handle(ready(0, 2), NOW)
    machine.handle(GRANT, NOW)
    return machine


def idle() -> SourceHandoff:
    """Granted; nothing is in flight."""
    machine = offered()
    machine.handle(GRANT, NOW)
    return machine


def committed() -> SourceHandoff:
    machine = offered()
    machine.handle(ready(0, 3, LIVE), NOW)
    machine.handle(GRANT, NOW)
    machine.handle(written(0), NOW)
    assert machine.state is SourceState.COMMITTED
    return machine


def settling() -> SourceHandoff:
    machine = sending()
    machine.handle(state.Stop("gone"), NOW)
    return machine


def unsettled() -> SourceHandoff:
    """Done, but write 0 was given up and may still land."""
    machine = sending()
    machine.handle(failed_write(0, quiesced=False), NOW)
    return machine


def failed() -> SourceHandoff:
    machine = offered()
    machine.handle(state.ComputeFailed(OUR_ERROR), NOW)
    return machine


def withdrawn() -> SourceHandoff:
    machine = offered()
    machine.handle(ready(0, 3, ENDED), NOW)
    return machine


def accepted() -> SourceHandoff:
    machine = committed()
    machine.handle(received("accepted", pb.Accepted()), NOW)
    return machine


GRANT = received("grant", grant_body(RESERVED, AGENT))
EVENTS: dict[str, state.Event] = {
    "offer": received("offer", pb.Offer()),
    "grant": GRANT,
    "commit": received("commit", commit()),
    "accepted": received("accepted", pb.Accepted()),
    "rejected": received("rejected", pb.Rejected(code="overloaded", message="full")),
    "status": received("status", pb.Status()),
    "withdraw": received("withdraw", pb.Withdraw()),
    "cancel": received("cancel", pb.CancelHandoff(reason="client gone")),
    "quiesced": received("quiesced", pb.Quiesced()),
    "fail": received("fail", pb.Fail(code="handoff_failed", message="x")),
    "due": DUE,
    "ready": ready(2, 1),
    "written": written(0, (1, 2)),
    "failed_write": failed_write(0, quiesced=True),
    "hung_write": failed_write(0, quiesced=False),
    "compute_failed": state.ComputeFailed(OUR_ERROR),
    "reserved": state.Reserved(RESERVED, AGENT),
    "no_room": state.NoRoom(),
    "room_freed": state.RoomFreed(),
    "verified": state.Verified(None),
    "stop": state.Stop("gone"),
    "peer_up": state.PeerUp(),
    "peer_lost": state.PeerLost("refused"),
    "peer_dead": state.PeerDead(),
    "recreated": state.Recreated(True),
    "tick": state.Tick(),
}

S = SourceState
# What ends a handoff without a write in flight, in any state that is open.
END = {
    "rejected": (S.DONE, ["quiesced", "report_failed", "release"]),
    "fail": (S.DONE, ["quiesced", "report_failed", "release"]),
    "cancel": (S.DONE, ["quiesced", "report_failed", "release"]),
    "peer_lost": (S.DONE, ["fail(quiesced)", "report_failed", "release"]),
    "peer_dead": (S.DONE, ["fail(quiesced)", "report_failed", "release"]),
    "compute_failed": (S.DONE, ["fail(quiesced)", "release"]),
    "stop": (S.DONE, ["cancel", "quiesced", "release"]),
}
# The same with a write in flight: the blocks stay, and Quiesced is not said.
END_LATER = {
    "rejected": (S.SETTLING, ["report_failed"]),
    "fail": (S.SETTLING, ["report_failed"]),
    "cancel": (S.SETTLING, ["report_failed"]),
    "peer_lost": (S.SETTLING, ["fail", "report_failed"]),
    # What is written to a dead process matters to nobody.
    "peer_dead": (S.DONE, ["fail(quiesced)", "report_failed", "release"]),
    "compute_failed": (S.SETTLING, ["fail"]),
    "stop": (S.SETTLING, ["cancel"]),
    "recreated": (S.SETTLING, ["fail", "report_failed"]),
}
EXPECTED: dict[str, dict[str, tuple[SourceState, list[str]]]] = {
    "waiting": END | {"due": (S.OFFERED, ["offer"])},
    "offered": END
    | {
        "grant": (S.SENDING, ["granted"]),
        "peer_up": (S.OFFERED, ["offer"]),
    },
    "sending": END_LATER
    | {
        "grant": (S.SENDING, []),
        "ready": (S.SENDING, ["write"]),
        "written": (S.SENDING, []),
        # Once more, then no more.
        "failed_write": (S.SENDING, ["write"]),
        "hung_write": (S.DONE, ["fail", "report_failed", "release"]),
        "peer_up": (S.SENDING, ["status"]),
    },
    "idle": END
    | {
        "grant": (S.SENDING, []),
        "peer_up": (S.SENDING, ["status"]),
        "recreated": (S.DONE, ["fail(quiesced)", "report_failed", "release"]),
    },
    "committed": END
    | {
        "accepted": (S.DONE, ["release", "report"]),
        "grant": (S.COMMITTED, ["commit"]),
        "peer_up": (S.COMMITTED, ["status"]),
    },
    "settling": {
        "written": (S.DONE, ["release", "quiesced"]),
        "failed_write": (S.DONE, ["release", "quiesced"]),
        "hung_write": (S.DONE, ["release"]),
        "peer_dead": (S.DONE, ["release"]),
        "recreated": (S.DONE, ["release"]),
        "grant": (S.SETTLING, ["fail"]),
        "peer_up": (S.SETTLING, ["fail"]),
    },
    "unsettled": {
        # The transport has seen the end of the write that hung.
        "written": (S.DONE, ["quiesced"]),
        "failed_write": (S.DONE, ["quiesced"]),
        "grant": (S.DONE, ["fail"]),
        "peer_up": (S.DONE, ["fail"]),
        "peer_dead": (S.DONE, []),
    },
    "failed": {
        "cancel": (S.DONE, ["quiesced"]),
        "rejected": (S.DONE, ["quiesced"]),
        "grant": (S.DONE, ["fail(quiesced)"]),
        "peer_up": (S.DONE, ["fail(quiesced)"]),
    },
    "withdrawn": {
        "cancel": (S.DONE, ["quiesced"]),
        "rejected": (S.DONE, ["quiesced"]),
        "grant": (S.DONE, ["withdraw"]),
        "peer_up": (S.DONE, ["withdraw"]),
    },
    "accepted": {
        "cancel": (S.DONE, ["quiesced"]),
        "rejected": (S.DONE, ["quiesced"]),
    },
}
SITUATIONS = {
    "waiting": waiting,
    "offered": offered,
    "sending": sending,
    "idle": idle,
    "committed": committed,
    "settling": settling,
    "unsettled": unsettled,
    "failed": failed,
    "withdrawn": withdrawn,
    "accepted": accepted,
}
# Blocks become ready once each, so these two do not fit a situation that has had them all.
SEPARATE = {("offered", "ready"), ("idle", "ready")}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("event", EVENTS)
def test_transition(situation: str, event: str) -> None:
    if (situation, event) in SEPARATE:
        return
    machine = SITUATIONS[situation]()
    before = machine.state
    actions = machine.handle(EVENTS[event], NOW)
    expected = EXPECTED[situation].get(event, (before, []))
    assert (machine.state, names(actions)) == expected


def test_every_cell_of_the_table_is_expected_somewhere() -> None:
    reached = {(SITUATIONS[s]().state, EVENTS[e].kind) for s, row in EXPECTED.items() for e in row}
    # Ticks depend on time and have tests of their own.
    ticks = {(state_, "tick") for state_ in SourceState if (state_, "tick") in TABLE}
    ready_cells = {(S.OFFERED, "ready"), (S.SENDING, "ready")}
    assert set(TABLE) == reached | ticks | ready_cells


@pytest.mark.parametrize("situation", ["waiting", "offered", "idle", "committed"])
def test_request_deadline_ends_every_open_state(situation: str) -> None:
    machine = SITUATIONS[situation]()
    assert machine.due_at <= DEADLINE
    actions = machine.handle(state.Tick(), DEADLINE)
    assert machine.state is SourceState.DONE
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]
    assert isinstance(actions[1], state.Report)
    assert isinstance(actions[1].error, DeadlineExceededError)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_early_tick_changes_nothing(situation: str) -> None:
    machine = SITUATIONS[situation]()
    before = machine.state
    assert machine.handle(state.Tick(), NOW) == []
    assert machine.state is before


def test_no_grant_in_time_fails() -> None:
    machine = offered()
    assert machine.due_at == NOW + SETTINGS.grant_wait_s
    actions = machine.handle(state.Tick(), machine.due_at)
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]
    assert actions[1].error.code == HandoffError.code


def test_source_at_work_shows_it_before_the_target_loses_patience() -> None:
    machine = idle()
    assert machine.due_at < NOW + SETTINGS.commit_wait_s
    assert names(machine.handle(state.Tick(), machine.due_at)) == ["status"]
    assert machine.state is SourceState.SENDING


def test_silent_target_is_asked_and_then_given_up() -> None:
    machine = committed()
    for _ in range(SETTINGS.status_tries):
        assert names(machine.handle(state.Tick(), machine.due_at)) == ["status"]
    actions = machine.handle(state.Tick(), machine.due_at)
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]


def test_hanging_write_frees_the_blocks_but_never_claims_to_be_quiet() -> None:
    machine = settling()
    assert names(machine.handle(state.Tick(), machine.due_at)) == ["release"]
    assert machine.state is SourceState.DONE and machine.may_land
    assert names(machine.handle(EVENTS["cancel"], NOW)) == []
    # It lands at last, and only now the target may reuse its blocks.
    assert names(machine.handle(written(0, (1, 2)), NOW)) == ["quiesced"]
    assert not machine.may_land


def test_blocks_are_written_as_they_become_final() -> None:
    machine = offered()
    assert machine.handle(ready(0, 1), NOW) == []
    granted, write = machine.handle(GRANT, NOW)
    assert granted == state.Granted()
    assert write.writes[0].local == (10,) and write.writes[0].remote == (20,)
    (second,) = machine.handle(ready(1, 1), NOW)
    assert second.writes[0].local == (11,) and second.writes[0].remote == (21,)
    (third,) = machine.handle(ready(2, 1, LIVE), NOW)
    for write_id in (1, 0):
        assert machine.handle(written(write_id, (write_id,)), NOW) == []
    (commit_,) = machine.handle(written(third.write_id, (2,)), NOW)
    group = commit_.message.commit.shards[0].groups[0]
    assert list(group.index) == [0, 1, 2]
    assert list(group.block_id) == [20, 21, 22] and list(group.generation) == [5, 6, 7]
    assert list(group.checksum) == [0, 1, 2]


def test_skipped_blocks_are_neither_written_nor_committed() -> None:
    machine = offered()
    machine.handle(ready(0, 3, LIVE), NOW)
    _, write = machine.handle(received("grant", grant_body(SKIPPING, AGENT)), NOW)
    assert write.writes[0].local == (11, 12)
    (commit_,) = machine.handle(written(0, (1, 2)), NOW)
    assert list(commit_.message.commit.shards[0].groups[0].index) == [1, 2]


def test_grants_add_up() -> None:
    machine = offered()
    machine.handle(ready(0, 3, LIVE), NOW)
    first = pb.Grant(grant_seq=1, transport_epoch=AGENT)
    first.groups.add(group=0, index=[0], block_id=[20], generation=[5])
    second = pb.Grant(grant_seq=2, transport_epoch=AGENT)
    second.groups.add(group=0, index=[0, 2], block_id=[99, 22], generation=[9, 7], skip=[1])
    _, write = machine.handle(received("grant", first), NOW)
    assert write.writes[0].remote == (20,)
    assert machine.handle(written(0, (1,)), NOW) == []
    # The later grant cannot move what is granted already.
    (more,) = machine.handle(received("grant", second), NOW)
    assert more.writes[0].remote == (22,)
    assert names(machine.handle(written(1, (3,)), NOW)) == ["commit"]


def test_grant_of_what_was_not_offered_fails_the_handoff() -> None:
    machine = offered()
    wrong = grant_body((ReservedGroup((1, 2, 3, 4), (1, 1, 1, 1), frozenset()),), AGENT)
    actions = machine.handle(received("grant", wrong), NOW)
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]


def test_grant_for_another_agent_voids_the_handoff() -> None:
    machine = idle()
    actions = machine.handle(received("grant", grant_body(RESERVED, AGENT + 1)), NOW)
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]


def test_writes_name_the_agent_that_was_granted_for() -> None:
    machine = offered()
    machine.handle(ready(0, 3), NOW)
    _, write = machine.handle(GRANT, NOW)
    assert write.transport_epoch == AGENT


def test_write_is_sent_again_once() -> None:
    machine = sending()
    (again,) = machine.handle(failed_write(0, quiesced=True), NOW)
    assert again.write_id != 0 and again.writes[0].local == (10, 11)
    actions = machine.handle(failed_write(again.write_id, quiesced=True), NOW)
    assert names(actions) == ["fail(quiesced)", "report_failed", "release"]


def test_death_of_the_target_settles_everything() -> None:
    machine = unsettled()
    assert machine.may_land
    assert machine.handle(state.PeerDead(), NOW) == []
    assert not machine.may_land


def test_withdraw_waits_for_writes_in_flight() -> None:
    machine = sending()
    assert machine.handle(ready(2, 1, ENDED), NOW) == []
    actions = machine.handle(written(0, (1, 2)), NOW)
    assert names(actions) == ["withdraw", "release", "report"]


def test_choices_that_ended_travel_beside_those_that_go_on() -> None:
    machine = SourceHandoff(IDENTITY, {0, 1}, DEADLINE, SETTINGS)
    machine.handle(DUE, NOW)
    machine.handle(ready(0, 3, {0: ENDED[0], 1: LIVE[0]}), NOW)
    machine.handle(GRANT, NOW)
    (commit_,) = machine.handle(written(0), NOW)
    sequences = commit_.message.commit.sequences
    assert [(s.choice, list(s.output), s.finish_reason) for s in sequences] == [
        (0, [7], 1),
        (1, [7], 0),
    ]


def test_peers_reason_keeps_its_code() -> None:
    machine = offered()
    invalid = received("rejected", pb.Rejected(code="invalid_request", message="no"))
    report = machine.handle(invalid, NOW)[1]
    assert isinstance(report.error, InvalidRequestError)
    machine = offered()
    unknown = received("rejected", pb.Rejected(code="unknown", message="no"))
    report = machine.handle(unknown, NOW)[1]
    assert isinstance(report.error, HandoffError) and report.error.retryable


def test_timing_says_where_it_went() -> None:
    machine = offered()
    machine.handle(ready(0, 3, LIVE), 2.0)
    machine.handle(GRANT, 3.0)
    machine.handle(written(0), 5.0)
    _, report = machine.handle(EVENTS["accepted"], 6.0)
    assert report.timing.grant_wait_s == 2.0
    assert report.timing.transfer_s == 2.0
    assert report.timing.num_bytes == 100
