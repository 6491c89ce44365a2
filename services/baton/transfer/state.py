"""The vocabulary of the handoff state machines: what happens to them, and what they want done.

`source_state.SourceHandoff` and `target_state.TargetHandoff` are pure. They take an event and the
time and return actions; `handoffs.Handoffs` carries the actions out and feeds back what came of
them. Each machine is a table from (state, kind of event) to a method: a pair that is not in the
table is ignored, which is what makes late and duplicate messages harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from google.protobuf.message import Message

from baton.core.errors import BatonError, HandoffError, from_code
from baton.core.handoff import MoveStopped, ReservedGroup, SourceOutput
from baton.transfer.base import BlockWrite, HandoffTiming, WriteResult
from baton.v1 import transfer_pb2

Body = Literal[
    "offer",
    "grant",
    "commit",
    "accepted",
    "rejected",
    "status",
    "withdraw",
    "cancel",
    "quiesced",
    "fail",
    "fetch",
]


# Code of a refusal by a worker that has no record of the handoff.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Identity:
    """What every message of a handoff carries."""

    handoff_id: bytes
    attempt: int
    source_epoch: int
    target_epoch: int

    def message(self, body: Body, content: Message) -> transfer_pb2.HandoffMessage:
        """A message of this handoff."""
        message = transfer_pb2.HandoffMessage(
            handoff_id=self.handoff_id,
            attempt=self.attempt,
            source_epoch=self.source_epoch,
            target_epoch=self.target_epoch,
        )
        getattr(message, body).CopyFrom(content)
        return message

    def names(self, message: transfer_pb2.HandoffMessage) -> bool:
        """Whether a message is of this handoff, this attempt and these two lives."""
        return (
            message.handoff_id == self.handoff_id
            and message.attempt == self.attempt
            and message.source_epoch == self.source_epoch
            and message.target_epoch == self.target_epoch
        )


# --- events ---


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the peer; its kind is the name of the body."""

    message: transfer_pb2.HandoffMessage

    @property
    def kind(self) -> str:
        return self.message.WhichOneof("body") or "empty"


@dataclass(frozen=True, slots=True)
class Due:
    """Source: the engine has scheduled the prompt, see `core.handoff.OfferDue`."""

    kind: ClassVar[str] = "due"
    num_tokens: int
    hashes: tuple[tuple[bytes, ...], ...]
    num_blocks: tuple[int, ...]
    growth_tokens: int = 0
    # What the transport can send full blocks in, besides plain bytes.
    codecs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """Source: blocks are final, or a part of their layers, see `core.handoff.BlocksReady`.

    `outputs` comes with the last ones.
    """

    kind: ClassVar[str] = "ready"
    first_index: tuple[int, ...]
    block_ids: tuple[tuple[int, ...], ...]
    outputs: Mapping[int, SourceOutput] | None
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class Stopped:
    """Source: a sequence that decoded on while it was copied does so no longer."""

    kind: ClassVar[str] = "stopped"
    stop: MoveStopped


@dataclass(frozen=True, slots=True)
class Written:
    """Source: what came of a write. A second one for a write says that it has settled at last.

    `at` is when it ended, which may be a while ago: a step of the engine lies in between.
    """

    kind: ClassVar[str] = "written"
    write_id: int
    result: WriteResult
    at: float


@dataclass(frozen=True, slots=True)
class ComputeFailed:
    """Source: the engine gave the prompt up, and has said so itself."""

    kind: ClassVar[str] = "compute_failed"
    error: BatonError


@dataclass(frozen=True, slots=True)
class Reserved:
    """Target: the offer has room."""

    kind: ClassVar[str] = "reserved"
    groups: tuple[ReservedGroup, ...]
    transport_epoch: int
    # One of those offered, or empty.
    codec: str = ""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Target: not now."""

    kind: ClassVar[str] = "no_room"


@dataclass(frozen=True, slots=True)
class Refused:
    """Target: the offer can never be taken."""

    kind: ClassVar[str] = "refused"
    error: BatonError


@dataclass(frozen=True, slots=True)
class RoomFreed:
    """Target: an offer that waits may fit now."""

    kind: ClassVar[str] = "room_freed"


@dataclass(frozen=True, slots=True)
class Verified:
    """Target: the committed blocks hold what the source sent (`problem` is None), or not."""

    kind: ClassVar[str] = "verified"
    problem: str | None


@dataclass(frozen=True, slots=True)
class Stop:
    """This worker's gateway cancelled."""

    kind: ClassVar[str] = "stop"
    reason: str


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A stream to the peer is there (again); what was sent on an earlier one may be lost."""

    kind: ClassVar[str] = "peer_up"


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The peer cannot be reached. It may be alive, and writing."""

    kind: ClassVar[str] = "peer_lost"
    reason: str


@dataclass(frozen=True, slots=True)
class PeerDead:
    """The peer's process is known dead: nothing of it can land any more."""

    kind: ClassVar[str] = "peer_dead"


@dataclass(frozen=True, slots=True)
class Recreated:
    """Our transport agent was destroyed and made anew.

    `fenced`: that ended the peer's writes. It does not for a peer that copies into our memory
    without our agent's help.
    """

    kind: ClassVar[str] = "recreated"
    fenced: bool


@dataclass(frozen=True, slots=True)
class Fenced:
    """Source: the target has a new agent, and the old one took part in every write of ours."""

    kind: ClassVar[str] = "fenced"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    kind: ClassVar[str] = "tick"


Event = (
    Received
    | Due
    | Ready
    | Stopped
    | Written
    | ComputeFailed
    | Reserved
    | NoRoom
    | Refused
    | RoomFreed
    | Verified
    | Stop
    | PeerUp
    | PeerLost
    | PeerDead
    | Recreated
    | Fenced
    | Tick
)


# --- actions ---


@dataclass(frozen=True, slots=True)
class Send:
    """Best effort: lost when no stream is there, and said again after PeerUp."""

    message: transfer_pb2.HandoffMessage


@dataclass(frozen=True, slots=True)
class Write:
    """Source: send blocks through the agent that was granted; comes back as Written."""

    write_id: int
    writes: tuple[BlockWrite, ...]
    transport_epoch: int


@dataclass(frozen=True, slots=True)
class Granted:
    """Source: tell the host that the target has room."""


@dataclass(frozen=True, slots=True)
class Release:
    """Source: unpin the blocks."""


@dataclass(frozen=True, slots=True)
class StopMove:
    """Source: the copy has caught up; comes back at once as Stopped, or later."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Target: ask the host for room; comes back at once as Reserved, NoRoom or Refused."""

    num_tokens: int
    hashes: tuple[tuple[bytes, ...], ...]
    num_blocks: tuple[int, ...]
    growth_tokens: int = 0
    # What the source can send full blocks in, besides plain bytes.
    codecs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expect:
    """Target: tell the transport what will be written."""

    groups: tuple[ReservedGroup, ...]


@dataclass(frozen=True, slots=True)
class BlockCheck:
    """Blocks of one group and the checksum that each should have."""

    group: int
    block_ids: tuple[int, ...]
    checksums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verify:
    """Target: compare what was committed with our request, and memory with the checksums.

    Comes back as Refused or Verified.
    """

    checks: tuple[BlockCheck, ...]
    outputs: Mapping[int, SourceOutput]
    # Per group: of all full blocks; and how many there are, the tail included.
    hashes: tuple[tuple[bytes, ...], ...]
    num_blocks: tuple[int, ...]
    # The grant's: blocks may hold records, to be decoded where they lie.
    codec: str = ""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Target: the KV is verified."""

    outputs: Mapping[int, SourceOutput]


@dataclass(frozen=True, slots=True)
class Unreserve:
    """Target: give the blocks back, or set them aside while a write may land."""

    quarantine: bool
    # How many a write may land in.
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Lift:
    """Target: nothing can land in the quarantined blocks any more."""


@dataclass(frozen=True, slots=True)
class Report:
    """How it ended; None is well. Comes exactly once, unless the host ended it itself."""

    error: BatonError | None
    timing: HandoffTiming
    # It is well because there was nothing to hand over.
    withdrawn: bool = False
    # Source: it failed after the commit, and the target may have adopted all the same.
    in_doubt: bool = False


Action = (
    Send
    | Write
    | Granted
    | Release
    | StopMove
    | Reserve
    | Expect
    | Verify
    | Adopt
    | Unreserve
    | Lift
    | Report
)


def error_from_peer(code: str, message: str) -> BatonError:
    """A peer's reason as an error; codes that are no error's name become HandoffError."""
    error = from_code(code, message)
    if type(error) is BatonError and code != BatonError.code:
        text = f"{code}: {message}" if code else message
        return HandoffError(text, reason=code or "peer_failed")
    if isinstance(error, HandoffError):
        error.reason = "peer_failed"
    return error
