"""How a call ends."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """gRPC's status codes, those that are used."""

    OK = 0
    INVALID_ARGUMENT = 3
    """What came cannot be read, or breaks the method's rules."""
    DEADLINE_EXCEEDED = 4
    FAILED_PRECONDITION = 9
    """Understood and refused; asking again does not help."""
    ABORTED = 10
    """Another call takes this one's place."""
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    """The connection could not be made, or broke."""
    UNAUTHENTICATED = 16


class StreamError(Exception):
    """A call has ended otherwise than well.

    Raised in a handler it ends the call so; raised by a `Stream` it says how the call ended.
    `refused`: nothing listens there, so the process is dead.
    """

    def __init__(self, code: Code, details: str, *, refused: bool = False) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.refused = refused
