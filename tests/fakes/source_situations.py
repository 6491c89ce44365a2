"""The source's machine in every situation worth telling apart, and every event."""

from __future__ import annotations

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
    MOVE_DUE,
    OUR_ERROR,
    RESERVED,
    ROOMY,
    SETTINGS,
    commit,
    failed_write,
    ready,
    received,
    stopped,
    written,
)

NOW = 1.0


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


def move_offered() -> SourceHandoff:
    """A sequence that decodes on: two full blocks are announced."""
    machine = waiting()
    machine.handle(MOVE_DUE, NOW)
    machine.handle(ready(0, 2), NOW)
    return machine


def copying() -> SourceHandoff:
    """Its blocks are in flight as write 0."""
    machine = move_offered()
    machine.handle(ROOMY_GRANT, NOW)
    return machine


def stopping() -> SourceHandoff:
    """It stands still; its tail is in flight as write 1."""
    machine = copying()
    machine.handle(written(0, (1, 2)), NOW)
    machine.handle(stopped(2, 1), NOW)
    return machine


def move_committed() -> SourceHandoff:
    machine = stopping()
    machine.handle(written(1, (3,)), NOW)
    assert machine.state is SourceState.COMMITTED
    return machine


GRANT = received("grant", grant_body(RESERVED, AGENT))
ROOMY_GRANT = received("grant", grant_body(ROOMY, AGENT))
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
    "stopped": stopped(2, 1),
    "ended": stopped(2, 0, ENDED),
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
    "fenced": state.Fenced(),
    "tick": state.Tick(),
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
    "move_offered": move_offered,
    "copying": copying,
    "stopping": stopping,
    "move_committed": move_committed,
}
