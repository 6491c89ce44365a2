"""The source's machine, as a table: for each situation, every event and what must come of it."""

from __future__ import annotations

import pytest

from baton.transfer.source_state import TABLE, SourceState
from fakes.handoff_messages import (
    names,
)
from fakes.source_situations import (
    EVENTS,
    NOW,
    SITUATIONS,
)

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
        "fenced": (S.DONE, ["quiesced"]),
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
    "move_offered": END
    | {
        "grant": (S.SENDING, ["granted", "write"]),
        "peer_up": (S.OFFERED, ["offer"]),
        "ready": (S.OFFERED, []),
        "ended": (S.DONE, ["withdraw", "release", "report"]),
    },
    "copying": END_LATER
    | {
        "grant": (S.SENDING, []),
        "ready": (S.SENDING, ["write"]),
        # All that there is has been copied: now it should stop.
        "written": (S.SENDING, ["stopmove"]),
        "failed_write": (S.SENDING, ["write"]),
        "hung_write": (S.DONE, ["fail", "report_failed", "release"]),
        "peer_up": (S.SENDING, ["status"]),
        # It may stop earlier, for want of room to grow, or end.
        "stopped": (S.SENDING, ["write"]),
        "ended": (S.SENDING, []),
    },
    "stopping": END_LATER | {"grant": (S.SENDING, []), "peer_up": (S.SENDING, ["status"])},
    "move_committed": END
    | {
        "accepted": (S.DONE, ["release", "report"]),
        "grant": (S.COMMITTED, ["commit"]),
        "peer_up": (S.COMMITTED, ["status"]),
    },
    "accepted": {
        "cancel": (S.DONE, ["quiesced"]),
        "rejected": (S.DONE, ["quiesced"]),
    },
}
# Blocks become ready once each, so these do not fit a situation that has had them all, and only a
# sequence that is moved stops, once.
SEPARATE = {
    ("offered", "ready"),
    ("idle", "ready"),
    ("stopping", "ready"),
    ("move_offered", "stopped"),
}
SEPARATE |= {
    (situation, event)
    for situation in ("offered", "sending", "idle", "stopping")
    for event in ("stopped", "ended")
}


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
