"""A checksum over each handoff message, so that one that was changed on its way counts as lost.

Blocks have checksums of their own; the tokens to go on from, and the block ids to write to, have
nothing but the message that names them. TCP's 16 bits are not enough to stake an answer on.
"""

from __future__ import annotations

import xxhash

from baton.v1 import transfer_pb2

Message = transfer_pb2.HandoffMessage


def seal(message: Message) -> None:
    """Write the checksum of everything else that is in `message`."""
    message.ClearField("checksum")
    message.checksum = _digest(message)


def is_sealed(message: Message) -> bool:
    """Whether `message` is as it was when it was sealed."""
    checksum = message.checksum
    message.ClearField("checksum")
    digest = _digest(message)
    message.checksum = checksum
    return digest == checksum


def _digest(message: Message) -> int:
    """xxh3-64 of the encoding, which has fields in the order of their numbers, and no map."""
    return xxhash.xxh3_64_intdigest(message.SerializeToString())
