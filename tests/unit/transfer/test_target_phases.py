"""What the target's machine does over several events, and when time runs out."""

from __future__ import annotations

import pytest

from baton.core.errors import (
    DeadlineExceededError,
    HandoffError,
    InvalidRequestError,
    OverloadedError,
)
from baton.core.handoff import ReservedGroup
from baton.transfer import state
from baton.transfer.messages import offer_body
from baton.transfer.target_state import TargetState
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    DEADLINE,
    DUE,
    ENDED,
    HASHES,
    LIVE,
    RESERVED,
    SETTINGS,
    SKIPPING,
    commit,
    names,
    received,
)
from fakes.target_situations import (
    EVENTS,
    NOW,
    OFFER,
    SITUATIONS,
    expecting,
    granted,
    queued,
    verifying,
)

S = TargetState


@pytest.mark.parametrize("situation", ["expecting", "queued", "granted", "verifying"])
def test_request_deadline_ends_every_open_state(situation: str) -> None:
    machine = SITUATIONS[situation]()
    assert machine.due_at <= DEADLINE
    actions = machine.handle(state.Tick(), DEADLINE)
    assert machine.closed
    report = actions[-1]
    assert isinstance(report, state.Report)
    assert isinstance(report.error, DeadlineExceededError)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_early_tick_changes_nothing(situation: str) -> None:
    machine = SITUATIONS[situation]()
    before = machine.state
    assert machine.handle(state.Tick(), NOW) == []
    assert machine.state is before


@pytest.mark.parametrize(
    ("situation", "wait_s", "error", "end"),
    [
        ("expecting", SETTINGS.offer_wait_s, HandoffError, S.DONE),
        ("queued", 5.0, OverloadedError, S.DONE),
        ("granted", SETTINGS.commit_wait_s, HandoffError, S.QUARANTINED),
        ("verifying", SETTINGS.write_wait_s, HandoffError, S.DONE),
    ],
)
def test_every_phase_has_its_deadline(
    situation: str, wait_s: float, error: type[Exception], end: TargetState
) -> None:
    machine = SITUATIONS[situation]()
    assert machine.due_at == NOW + wait_s
    report = machine.handle(state.Tick(), machine.due_at)[-1]
    assert isinstance(report.error, error)
    assert machine.state is end


def test_signs_of_life_put_the_deadline_off() -> None:
    machine = granted()
    machine.handle(EVENTS["status"], NOW + 50.0)
    assert machine.handle(state.Tick(), NOW + SETTINGS.commit_wait_s) == []
    assert machine.state is S.GRANTED


def test_quarantine_asks_again_until_the_source_answers() -> None:
    machine = granted()
    machine.handle(EVENTS["stop"], NOW)
    for round_ in range(1, 4):
        at = NOW + round_ * SETTINGS.commit_wait_s
        assert machine.handle(state.Tick(), at - 1) == []
        assert names(machine.handle(state.Tick(), at)) == ["cancel"]
    assert names(machine.handle(EVENTS["quiesced"], NOW + 500)) == ["lift"]
    assert machine.handle(state.Tick(), NOW + 5000) == []


def test_grant_says_where_to_write_and_what_to_skip() -> None:
    machine = expecting()
    machine.handle(OFFER, NOW)
    expect, send = machine.handle(state.Reserved(SKIPPING, AGENT), NOW)
    assert expect.groups == SKIPPING
    group = send.message.grant.groups[0]
    assert list(group.index) == [1, 2] and list(group.skip) == [0]
    assert list(group.block_id) == [21, 22] and list(group.generation) == [6, 7]


def test_commit_names_what_to_check() -> None:
    (verify,) = granted(SKIPPING).handle(received("commit", commit(SKIPPING)), NOW)
    assert verify.checks == (state.BlockCheck(0, (21, 22), (2, 3)),)


def test_adopts_what_goes_on_and_what_ended() -> None:
    machine = expecting(frozenset({0, 1}))
    machine.handle(received("offer", offer_body(DUE, {0, 1}, 5.0)), NOW)
    machine.handle(state.Reserved(RESERVED, AGENT), NOW)
    outputs = {0: ENDED[0], 1: LIVE[0]}
    machine.handle(received("commit", commit(outputs=outputs)), NOW)
    adopt = machine.handle(state.Verified(None), NOW)[0]
    assert adopt.outputs == outputs


def _stale_generation() -> pb.Commit:
    return commit((ReservedGroup((20, 21, 22), (5, 6, 8), frozenset()),))


def _other_hashes() -> pb.Commit:
    return commit(due=state.Due(10, ((HASHES[0], b"x" * 16),), (3,)))


def _without_checksums() -> pb.Commit:
    return commit(sums=())


def _other_choice() -> pb.Commit:
    return commit(outputs={1: LIVE[0]})


def _no_token() -> pb.Commit:
    message = commit()
    del message.sequences[0].output[:]
    return message


def _two_shards() -> pb.Commit:
    message = commit()
    message.shards.add(tp_rank=1)
    return message


def _ragged() -> pb.Commit:
    message = commit()
    message.shards[0].groups[0].generation.append(1)
    return message


def _block_twice() -> pb.Commit:
    message = commit()
    group = message.shards[0].groups[0]
    group.index[:] = [0, 1, 1]
    return message


@pytest.mark.parametrize(
    "make",
    [
        _stale_generation,
        _other_hashes,
        _without_checksums,
        _other_choice,
        _no_token,
        _two_shards,
        _ragged,
        _block_twice,
    ],
)
def test_commit_that_does_not_fit_is_never_checked_in(make: object) -> None:
    machine = granted()
    actions = machine.handle(received("commit", make()), NOW)
    assert names(actions) == ["rejected", "quarantine", "report_failed"]
    assert machine.state is S.QUARANTINED


def test_checksums_may_be_absent_when_they_are_off() -> None:
    machine = expecting(checksum="off")
    machine.handle(OFFER, NOW)
    machine.handle(state.Reserved(RESERVED, AGENT), NOW)
    assert names(machine.handle(received("commit", commit(sums=())), NOW)) == ["verify"]


def test_corrupt_block_frees_the_room_for_commit_said_that_writes_are_done() -> None:
    machine = verifying()
    rejected, unreserve, report = machine.handle(state.Verified("block 3 differs"), NOW)
    assert rejected.message.rejected.code == "checksum_mismatch"
    assert unreserve == state.Unreserve(quarantine=False, num_blocks=3)
    assert isinstance(report.error, HandoffError) and report.error.retryable


def test_queued_offer_is_refused_as_overloaded_when_its_wait_is_over() -> None:
    machine = queued()
    rejected, _ = machine.handle(state.Tick(), machine.due_at)
    assert rejected.message.rejected.code == OverloadedError.code


def test_offer_of_other_choices_is_the_requests_fault() -> None:
    _, report = expecting().handle(EVENTS["bad_offer"], NOW)
    assert isinstance(report.error, InvalidRequestError)
