"""What a target decided, for a source that asks, once and again. Pure."""

from __future__ import annotations

from google.protobuf.message import Message

from baton.core.errors import BatonError, CancelledRequestError, HandoffError
from baton.transfer.state import Body
from baton.v1 import transfer_pb2

CHECKSUM_MISMATCH = "checksum_mismatch"


class Verdict:
    """Not reached, adopted, or the error for which the handoff was refused."""

    def __init__(self) -> None:
        self.adopted = False
        self._failure: BatonError | None = None

    @property
    def is_reached(self) -> bool:
        return self.adopted or self._failure is not None

    def adopt(self) -> None:
        self.adopted = True

    def refuse(self, error: BatonError) -> None:
        self._failure = error

    def body(self) -> tuple[Body, Message]:
        """Accepted; Cancel where our gateway cancelled; else Rejected with the reason."""
        if self.adopted:
            return "accepted", transfer_pb2.Accepted()
        error = self._failure
        assert error is not None, "it is told once it is reached"
        if isinstance(error, CancelledRequestError):
            return "cancel", transfer_pb2.CancelHandoff(reason=error.message)
        is_mismatch = isinstance(error, HandoffError) and error.reason == CHECKSUM_MISMATCH
        code = CHECKSUM_MISMATCH if is_mismatch else error.code
        message = error.message.removeprefix(f"{code}: ")
        return "rejected", transfer_pb2.Rejected(code=code, message=message)
