"""The target's machine, as a table: for each situation, every event and what must come of it."""

from __future__ import annotations

import pytest

from baton.transfer.target_state import TABLE, TargetState
from fakes.handoff_messages import (
    names,
)
from fakes.target_situations import (
    EVENTS,
    NOW,
    SITUATIONS,
)

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
    "fetching": END
    | {
        "peer_up": (S.EXPECTING, ["fetch"]),
        # They are of a sequence.
        "offer": (S.DONE, ["rejected", "report_failed"]),
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
        # What was committed is not of our request.
        "refused": (S.DONE, ["rejected", "unreserve", "report_failed"]),
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
