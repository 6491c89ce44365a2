"""A message that was changed after it was sealed is known as such."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st

from baton.transfer.seal import is_sealed, seal
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import IDENTITY, commit

SEALED = IDENTITY.message("commit", commit())
seal(SEALED)
BYTES = SEALED.SerializeToString()


def test_sealed_message_survives_the_wire() -> None:
    assert is_sealed(pb.HandoffMessage.FromString(BYTES))


def test_message_that_nobody_sealed_is_refused() -> None:
    assert not is_sealed(IDENTITY.message("status", pb.Status()))


def test_sealing_again_takes_up_a_change() -> None:
    message = pb.HandoffMessage.FromString(BYTES)
    message.attempt += 1
    assert not is_sealed(message)
    seal(message)
    assert is_sealed(message)


def test_field_of_a_newer_build_is_covered_and_does_no_harm() -> None:
    # Field 1000, varint 1: kept as unknown by this build.
    grant = pb.Grant.FromString(b"\xc0\x3e\x01")
    message = IDENTITY.message("grant", grant)
    seal(message)
    assert is_sealed(pb.HandoffMessage.FromString(message.SerializeToString()))


@given(st.integers(0, 8 * len(BYTES) - 1))
def test_any_changed_bit_is_seen(position: int) -> None:
    changed = bytearray(BYTES)
    changed[position // 8] ^= 1 << position % 8
    try:
        message = pb.HandoffMessage.FromString(bytes(changed))
    except DecodeError:
        # It never gets as far as the checksum.
        assume(False)
        return
    assert message == SEALED or not is_sealed(message)
