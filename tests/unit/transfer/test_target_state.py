"""The target's machine, as a table: for each situation, every event and what must come of it."""

from __future__ import annotations

import pytest
from baton.core.errors import (
    DeadlineExceededError,
    HandoffError,
    InvalidRequestError,
    OverloadedError,
)
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.base import ReservedGroup
from baton.transfer.messages import offer_body
from baton.transfer.target_state import TABLE, TargetHandoff, TargetState
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    ALL_SKIPPED,
    DEADLINE,
    DUE,
    ENDED,
    HASHES,
    IDENTITY,
    LIVE,
    OUR_ERROR,
    REFUSED,
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


def expecting(choices: frozenset[int] = frozenset({0}), **settings: object) -> TargetHandoff:
    chosen = TransferSettings(**settings) if settings else SETTINGS
    return TargetHandoff(IDENTITY, choices, 1, DEADLINE, chosen, NOW)


def queued() -> TargetHandoff:
    machine = expecting()
    machine.handle(OFFER, NOW)
    machine.handle(state.NoRoom(), NOW)
    return machine


def granted(reserved: tuple[ReservedGroup, ...] = RESERVED) -> TargetHandoff:
    machine = expecting()
    machine.handle(OFFER, NOW)
    machine.handle(state.Reserved(reserved, AGENT), NOW)
    return machine


def granted_nothing() -> TargetHandoff:
    """All offered blocks are held here: the source may write nowhere."""
    return granted(ALL_SKIPPED)


def verifying() -> TargetHandoff:
    machine = granted()
    machine.handle(COMMIT, NOW)
    return machine


def quarantined() -> TargetHandoff:
    machine = granted()
    machine.handle(state.PeerLost("gone"), NOW)
    return machine


def cancelled() -> TargetHandoff:
    machine = granted()
    machine.handle(state.Stop("client gone"), NOW)
    return machine


def refused() -> TargetHandoff:
    machine = queued()
    machine.handle(REFUSED, NOW)
    return machine


def withdrawn() -> TargetHandoff:
    machine = expecting()
    machine.handle(received("withdraw", pb.Withdraw()), NOW)
    return machine


def adopted() -> TargetHandoff:
    machine = verifying()
    machine.handle(state.Verified(None), NOW)
    return machine


OFFER = received("offer", offer_body(DUE, {0}, 5.0))
COMMIT = received("commit", commit())
EVENTS: dict[str, state.Event] = {
    "offer": OFFER,
    "bad_offer": received("offer", offer_body(DUE, {0, 1}, 5.0)),
    "grant": received("grant", pb.Grant()),
    "commit": COMMIT,
    "bad_commit": received("commit", commit(SKIPPING)),
    "accepted": received("accepted", pb.Accepted()),
    "rejected": received("rejected", pb.Rejected()),
    "status": received("status", pb.Status()),
    "withdraw": received("withdraw", pb.Withdraw()),
    "cancel": received("cancel", pb.CancelHandoff(reason="client gone")),
    "quiesced": received("quiesced", pb.Quiesced()),
    "fail": received("fail", pb.Fail(code="handoff_failed", message="x")),
    "quiet_fail": received("fail", pb.Fail(code="handoff_failed", message="x", quiesced=True)),
    "due": DUE,
    "ready": ready(0, 3),
    "written": written(0),
    "failed_write": failed_write(0, quiesced=False),
    "compute_failed": state.ComputeFailed(OUR_ERROR),
    "reserved": state.Reserved(RESERVED, AGENT),
    "no_room": state.NoRoom(),
    "refused": REFUSED,
    "room_freed": state.RoomFreed(),
    "verified": state.Verified(None),
    "corrupt": state.Verified("block 3 is not what was sent"),
    "stop": state.Stop("client gone"),
    "peer_up": state.PeerUp(),
    "peer_lost": state.PeerLost("refused"),
    "peer_dead": state.PeerDead(),
    "recreated": state.Recreated(True),
    "recreated_unfenced": state.Recreated(False),
    "tick": state.Tick(),
}

S = TargetState
# What ends a handoff that holds no blocks.
END = {
    "withdraw": (S.DONE, ["report"]),
    "cancel": (S.DONE, ["report_failed"]),
    "quiesced": (S.DONE, ["report_failed"]),
    "fail": (S.DONE, ["report_failed"]),
    "quiet_fail": (S.DONE, ["report_failed"]),
    "stop": (S.DONE, ["cancel"]),
    "peer_lost": (S.DONE, ["report_failed"]),
    "peer_dead": (S.DONE, ["report_failed"]),
}
GRANTED_FREE = {
    # Nothing is in flight, or nothing can be: the blocks are free at once.
    "withdraw": (S.DONE, ["unreserve", "report"]),
    "quiesced": (S.DONE, ["unreserve", "report_failed"]),
    "quiet_fail": (S.DONE, ["unreserve", "report_failed"]),
    "peer_dead": (S.DONE, ["unreserve", "report_failed"]),
    "recreated": (S.DONE, ["rejected", "unreserve", "report_failed"]),
}
AGAIN = {
    "offer": (S.GRANTED, ["grant"]),
    "bad_offer": (S.GRANTED, ["grant"]),
    "status": (S.GRANTED, ["grant"]),
}
REPEAT_REFUSAL = {
    event: (S.DONE, ["rejected"])
    for event in ("offer", "bad_offer", "commit", "bad_commit", "status", "peer_up")
}
LIFTED = (S.DONE, ["lift"])
QUARANTINED = {
    "quiesced": LIFTED,
    "quiet_fail": LIFTED,
    "withdraw": LIFTED,
    "peer_dead": LIFTED,
    "recreated": LIFTED,
}
EXPECTED: dict[str, dict[str, tuple[TargetState, list[str]]]] = {
    "expecting": END
    | {
        "offer": (S.EXPECTING, ["reserve"]),
        "bad_offer": (S.DONE, ["rejected", "report_failed"]),
        "reserved": (S.GRANTED, ["expect", "grant"]),
        "no_room": (S.QUEUED, []),
        "refused": (S.DONE, ["rejected", "report_failed"]),
    },
    "queued": END
    | {
        "room_freed": (S.QUEUED, ["reserve"]),
        "reserved": (S.GRANTED, ["expect", "grant"]),
        "refused": (S.DONE, ["rejected", "report_failed"]),
    },
    "granted": GRANTED_FREE
    | AGAIN
    | {
        "commit": (S.VERIFYING, ["verify"]),
        # The source may still write, or says nothing of it: the blocks are set apart.
        "bad_commit": (S.QUARANTINED, ["rejected", "quarantine", "report_failed"]),
        "cancel": (S.QUARANTINED, ["quarantine", "report_failed"]),
        "fail": (S.QUARANTINED, ["quarantine", "report_failed"]),
        "stop": (S.QUARANTINED, ["cancel", "quarantine"]),
        "peer_lost": (S.QUARANTINED, ["quarantine", "report_failed"]),
        "recreated_unfenced": (S.QUARANTINED, ["rejected", "quarantine", "report_failed"]),
    },
    "granted_nothing": GRANTED_FREE
    | AGAIN
    | {
        "commit": (S.DONE, ["rejected", "unreserve", "report_failed"]),
        "bad_commit": (S.DONE, ["rejected", "unreserve", "report_failed"]),
        "cancel": (S.DONE, ["unreserve", "report_failed"]),
        "fail": (S.DONE, ["unreserve", "report_failed"]),
        "stop": (S.DONE, ["cancel", "unreserve"]),
        "peer_lost": (S.DONE, ["unreserve", "report_failed"]),
        "recreated_unfenced": (S.DONE, ["rejected", "unreserve", "report_failed"]),
    },
    "verifying": {
        "verified": (S.DONE, ["adopt", "accepted", "report"]),
        "corrupt": (S.DONE, ["rejected", "unreserve", "report_failed"]),
        "stop": (S.DONE, ["cancel", "unreserve"]),
    },
    "quarantined": QUARANTINED
    | {
        "commit": (S.DONE, ["lift", "rejected"]),
        "bad_commit": (S.DONE, ["lift", "rejected"]),
        "offer": (S.QUARANTINED, ["rejected"]),
        "bad_offer": (S.QUARANTINED, ["rejected"]),
        "status": (S.QUARANTINED, ["rejected"]),
        "peer_up": (S.QUARANTINED, ["rejected"]),
    },
    "cancelled": QUARANTINED
    | {
        "commit": (S.DONE, ["lift", "cancel"]),
        "bad_commit": (S.DONE, ["lift", "cancel"]),
        "offer": (S.QUARANTINED, ["cancel"]),
        "bad_offer": (S.QUARANTINED, ["cancel"]),
        "status": (S.QUARANTINED, ["cancel"]),
        "peer_up": (S.QUARANTINED, ["cancel"]),
    },
    "refused": REPEAT_REFUSAL,
    "withdrawn": {},
    "adopted": {
        "commit": (S.DONE, ["accepted"]),
        "bad_commit": (S.DONE, ["accepted"]),
        "status": (S.DONE, ["accepted"]),
    },
}
SITUATIONS = {
    "expecting": expecting,
    "queued": queued,
    "granted": granted,
    "granted_nothing": granted_nothing,
    "verifying": verifying,
    "quarantined": quarantined,
    "cancelled": cancelled,
    "refused": refused,
    "withdrawn": withdrawn,
    "adopted": adopted,
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("event", EVENTS)
def test_transition(situation: str, event: str) -> None:
    machine = SITUATIONS[situation]()
    before = machine.state
    actions = machine.handle(EVENTS[event], NOW)
    expected = EXPECTED[situation].get(event, (before, []))
    assert (machine.state, names(actions)) == expected


def test_every_cell_of_the_table_is_expected_somewhere() -> None:
    reached = {(SITUATIONS[s]().state, EVENTS[e].kind) for s, row in EXPECTED.items() for e in row}
    ticks = {(state_, "tick") for state_ in TargetState if (state_, "tick") in TABLE}
    assert set(TABLE) == reached | ticks


def test_only_a_passed_check_adopts() -> None:
    for situation, make in SITUATIONS.items():
        for name, event in EVENTS.items():
            adopts = "adopt" in names(make().handle(event, NOW))
            assert adopts == ((situation, name) == ("verifying", "verified"))


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
