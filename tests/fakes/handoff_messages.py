"""Messages and events of one small handoff, for tests of the pure state machines.

Three blocks of four tokens, the last one partial; block ids are 10 to 12 on the source and 20 to 22
on the target.
"""

from __future__ import annotations

from google.protobuf.message import Message

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.handoff import MoveStopped, ReservedGroup, SourceOutput
from baton.core.request import FinishReason
from baton.core.settings import TransferSettings
from baton.transfer import messages, state
from baton.transfer.base import WriteResult
from baton.transfer.messages import GroupGrant

IDENTITY = state.Identity(b"h" * 16, attempt=1, source_epoch=11, target_epoch=22)
SETTINGS = TransferSettings()
DEADLINE = 100.0
# Transport epoch of the target.
AGENT = 3
HASHES = (b"a" * 16, b"b" * 16)
DUE = state.Due(10, (HASHES,), (3,))
# The same, moved as it decodes: one more block for six more tokens at most.
MOVE_DUE = state.Due(10, (HASHES,), (4,), 6)
LIVE = {0: SourceOutput((7,), None)}
ENDED = {0: SourceOutput((7,), FinishReason.STOP)}
SUMS = (1, 2, 3)
RESERVED = (ReservedGroup((20, 21, 22), (5, 6, 7), frozenset()),)
ROOMY = (ReservedGroup((20, 21, 22, 23), (5, 6, 7, 8), frozenset()),)
# The target holds block 0 already.
SKIPPING = (ReservedGroup((9, 21, 22), (1, 6, 7), frozenset({0})),)
ALL_SKIPPED = (ReservedGroup((9, 8, 7), (1, 1, 1), frozenset({0, 1, 2})),)


def received(body: state.Body, content: Message) -> state.Received:
    return state.Received(IDENTITY.message(body, content))


def commit(reserved=RESERVED, outputs=LIVE, sums=SUMS, due=DUE):
    """The Commit that a source sends for a grant of `reserved`."""
    grant = GroupGrant()
    messages.read_grant(messages.grant_body(reserved, AGENT), [grant], due)
    checksums = {i: sums[i] for i in grant.blocks} if sums else {}
    return messages.commit_body(due, outputs, [grant], [checksums])


def ready(first: int, count: int, outputs=None) -> state.Ready:
    ids = tuple(range(10 + first, 10 + first + count))
    return state.Ready((first,), (ids,), outputs)


def stopped(first: int, count: int, outputs=None) -> state.Stopped:
    """A moving sequence stops: blocks from `first` on are its last; block 2 may be full by now."""
    ids = tuple(range(10 + first, 10 + first + count))
    hashes = (b"c" * 16,) if first + count > 3 else ()
    return state.Stopped(MoveStopped(("s", 1), (first,), (ids,), (hashes,), outputs or LIVE))


def written(write_id: int, sums=SUMS, at: float = 1.0) -> state.Written:
    return state.Written(write_id, WriteResult((tuple(sums),), 100), at)


def failed_write(write_id: int, *, quiesced: bool) -> state.Written:
    result = WriteResult((), 0, error="broken", quiesced=quiesced)
    return state.Written(write_id, result, at=1.0)


def names(actions: list[state.Action]) -> list[str]:
    """Actions as words: a Send is the name of its body, an Unreserve says whether it sets apart."""
    return [_name(action) for action in actions]


def _name(action: state.Action) -> str:
    match action:
        case state.Send(message):
            body = message.WhichOneof("body") or ""
            if body == "fail":
                return "fail(quiesced)" if message.fail.quiesced else "fail"
            return body
        case state.Unreserve(quarantine, _):
            return "quarantine" if quarantine else "unreserve"
        case state.Report(error, _):
            return "report" if error is None else "report_failed"
        case _:
            return type(action).__name__.lower()


OUR_ERROR = HandoffError("ours")
REFUSED = state.Refused(InvalidRequestError("not of this request"))
