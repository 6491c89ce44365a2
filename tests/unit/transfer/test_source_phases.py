"""What the source's machine does over several events, and when time runs out."""

from __future__ import annotations

import pytest

from baton.core.errors import DeadlineExceededError, HandoffError, InvalidRequestError
from baton.core.handoff import ReservedGroup
from baton.transfer import state
from baton.transfer.messages import grant_body
from baton.transfer.source_state import SourceHandoff, SourceState
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    DEADLINE,
    DUE,
    ENDED,
    IDENTITY,
    LIVE,
    RESERVED,
    SETTINGS,
    SKIPPING,
    failed_write,
    names,
    ready,
    received,
    written,
)
from fakes.source_situations import (
    EVENTS,
    GRANT,
    NOW,
    SITUATIONS,
    committed,
    idle,
    offered,
    sending,
    settling,
    unsettled,
)

S = SourceState


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
    machine.handle(written(0, at=5.0), 5.0)
    _, report = machine.handle(EVENTS["accepted"], 6.0)
    assert report.timing.grant_wait_s == 2.0
    assert report.timing.transfer_s == 2.0
    assert report.timing.num_bytes == 100
