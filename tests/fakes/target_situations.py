"""The target's machine in every situation worth telling apart, and every event."""

from __future__ import annotations

from baton.core.handoff import ReservedGroup
from baton.core.settings import TransferSettings
from baton.transfer import state
from baton.transfer.messages import offer_body
from baton.transfer.target_state import TargetHandoff
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import (
    AGENT,
    ALL_SKIPPED,
    DEADLINE,
    DUE,
    IDENTITY,
    OUR_ERROR,
    REFUSED,
    RESERVED,
    SETTINGS,
    SKIPPING,
    commit,
    failed_write,
    ready,
    received,
    written,
)

NOW = 1.0


def expecting(choices: frozenset[int] = frozenset({0}), **settings: object) -> TargetHandoff:
    chosen = TransferSettings(**settings) if settings else SETTINGS
    return TargetHandoff(IDENTITY, choices, 1, DEADLINE, chosen, NOW)


def fetching() -> TargetHandoff:
    """No submission awaits the blocks, which the source offers when it is asked."""
    fetch = pb.Fetch(hashes=b"".join(DUE.hashes[0]))
    return TargetHandoff(IDENTITY, (), 1, DEADLINE, SETTINGS, NOW, fetch)


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
SITUATIONS = {
    "expecting": expecting,
    "fetching": fetching,
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
