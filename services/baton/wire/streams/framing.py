"""Frames: four bytes of length (little-endian, of what follows the header), one of kind, content.

Pure: bytes in, frames out.
"""

from __future__ import annotations

import struct
from enum import IntEnum

# What a caller sends before its first frame. A stranger is recognised by its lack.
PREFACE = b"baton/1\r\n"
# A longer frame is a fault of whoever sends it: a prompt of a million tokens takes 5 MB.
MAX_CONTENT = 1 << 30

_HEADER = struct.Struct("<IB")
_HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame holds."""

    MESSAGE = 0
    """A message of the method."""
    OPEN = 1
    """StreamOpen, from the caller, first."""
    END = 2
    """StreamEnd, from the callee, last."""
    HALF_CLOSE = 3
    """The caller has no more messages; no content."""
    PING = 4
    """Asks for a PONG; no content."""
    PONG = 5
    """No content."""


class FramingError(Exception):
    """What came cannot be a frame."""


def frame(kind: Kind, content: bytes = b"") -> bytes:
    """A frame's bytes."""
    return _HEADER.pack(len(content), kind) + content


def first_frame(data: bytes, max_content: int) -> tuple[int, bytes, bytes] | None:
    """(kind, content, what follows) of the frame that `data` begins with; None: not whole yet.

    Raises FramingError.
    """
    if len(data) < _HEADER_BYTES:
        return None
    length, kind = _HEADER.unpack_from(data)
    _check_length(length, max_content)
    end = _HEADER_BYTES + length
    return (kind, data[_HEADER_BYTES:end], data[end:]) if len(data) >= end else None


def _check_length(length: int, max_content: int) -> None:
    if length > max_content:
        raise FramingError(f"a frame of {length} bytes; at most {max_content} may be")


class Deframer:
    """Cuts what comes into frames."""

    def __init__(self) -> None:
        # What came of a frame that is not whole yet, and how much there must be to go on.
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._wanted = _HEADER_BYTES

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames, as (kind, content), that end within `data`. Raises FramingError."""
        if self._parts:
            self._parts.append(data)
            self._num_bytes += len(data)
            if self._num_bytes < self._wanted:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        self._wanted = _HEADER_BYTES
        while end - at >= _HEADER_BYTES:
            length, kind = _HEADER.unpack_from(data, at)
            _check_length(length, MAX_CONTENT)
            if end - at - _HEADER_BYTES < length:
                self._wanted = _HEADER_BYTES + length
                break
            at += _HEADER_BYTES
            frames.append((kind, data[at : at + length]))
            at += length
        if at < end:
            self._parts.append(data[at:])
            self._num_bytes = end - at
        return frames
