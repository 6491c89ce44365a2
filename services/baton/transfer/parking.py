"""Messages for handoffs that this worker has not heard of: some come early, others by mistake."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.transfer.links import Message
from baton.transfer.peers import PeerId
from baton.transfer.state import UNKNOWN
from baton.v1 import transfer_pb2

MAX_PARKED = 4096
MAX_MESSAGES = 4
# What a source may say before the submission is here: its Offer, and how it ended.
EARLY = frozenset({"offer", "withdraw", "fail", "cancel"})


@dataclass(slots=True)
class _Parked:
    peer_id: PeerId
    expires: float
    messages: list[Message] = field(default_factory=list)


class Parking:
    """Keeps what overtook its submission, Offers above all, for `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._parked: dict[bytes, _Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def take(self, handoff_id: bytes, peer_id: PeerId) -> list[Message]:
        """What has come for a handoff that starts now, in order."""
        parked = self._parked.pop(handoff_id, None)
        return parked.messages if parked is not None and parked.peer_id == peer_id else []

    def receive(
        self, peer_id: PeerId, message: Message, my_epoch: int, now: float
    ) -> Message | None:
        """Park a message that may be early; what to answer to any other, if anything.

        A source without a record of a handoff has no write of it in flight: records of writes that
        may land are kept. So it can answer Quiesced.
        """
        body = message.WhichOneof("body")
        if message.target_epoch == my_epoch:
            if body in EARLY and self._park(peer_id, message, now):
                return None
            return refusal(message) if body in ("offer", "commit", "status") else None
        if message.source_epoch != my_epoch:
            return None
        if body == "grant":
            return _reply(message, fail=transfer_pb2.Fail(code=UNKNOWN, quiesced=True))
        if body in ("cancel", "rejected", "fail"):
            return _reply(message, quiesced=transfer_pb2.Quiesced())
        return None

    def _park(self, peer_id: PeerId, message: Message, now: float) -> bool:
        parked = self._parked.get(message.handoff_id)
        if parked is None:
            if len(self._parked) >= MAX_PARKED:
                return False
            parked = _Parked(peer_id, now + self._wait_s)
            self._parked[message.handoff_id] = parked
        if parked.peer_id != peer_id:
            return False
        body = message.WhichOneof("body")
        repeated = any(earlier.WhichOneof("body") == body for earlier in parked.messages)
        if not repeated and len(parked.messages) < MAX_MESSAGES:
            parked.messages.append(message)
        return True

    def forget(self, peer_id: PeerId) -> None:
        """The peer is lost: what it offered would be granted to nobody."""
        gone = [key for key, parked in self._parked.items() if parked.peer_id == peer_id]
        for key in gone:
            del self._parked[key]

    def expire(self, now: float) -> list[tuple[PeerId, Message]]:
        """Refusals for what came without a submission, and to whom they go."""
        late = [key for key, parked in self._parked.items() if parked.expires <= now]
        gone = [self._parked.pop(key) for key in late]
        return [(parked.peer_id, refusal(parked.messages[0])) for parked in gone]


def refusal(message: Message) -> Message:
    """Rejected, for a handoff that is not known here."""
    text = "this worker has no submission for the handoff"
    return _reply(message, rejected=transfer_pb2.Rejected(code=UNKNOWN, message=text))


def _reply(message: Message, **body: object) -> Message:
    return Message(
        handoff_id=message.handoff_id,
        attempt=message.attempt,
        source_epoch=message.source_epoch,
        target_epoch=message.target_epoch,
        **body,  # type: ignore[arg-type]
    )
