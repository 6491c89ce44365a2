"""Frames come out as they went in, however the connection cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.wire.streams.framing import (
    MAX_CONTENT,
    Deframer,
    FramingError,
    Kind,
    first_frame,
    frame,
)

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=8)
# A header that announces one byte too many.
TOO_LONG = (MAX_CONTENT + 1).to_bytes(4, "little") + bytes([Kind.MESSAGE])


@given(FRAMES, st.lists(st.integers(1, 50), max_size=30))
def test_frames_survive_any_cutting(frames: list[tuple[Kind, bytes]], sizes: list[int]) -> None:
    data = b"".join(frame(kind, content) for kind, content in frames)
    deframer, came = Deframer(), []
    for size in [*sizes, len(data)]:
        came += deframer.feed(data[:size])
        data = data[size:]
    assert came == frames


def test_a_message_of_many_pieces_is_put_together_once() -> None:
    content = bytes(range(256)) * 4096
    data, deframer = frame(Kind.MESSAGE, content), Deframer()
    pieces = [data[i : i + 1000] for i in range(0, len(data), 1000)]
    came = [f for piece in pieces for f in deframer.feed(piece)]
    assert came == [(Kind.MESSAGE, content)]


def test_a_length_beyond_reason_is_refused_before_its_content_comes() -> None:
    with pytest.raises(FramingError, match="at most"):
        Deframer().feed(TOO_LONG)


@given(st.sampled_from(Kind), st.binary(max_size=40), st.binary(max_size=40))
def test_the_first_frame_and_what_follows(kind: Kind, content: bytes, rest: bytes) -> None:
    whole = frame(kind, content)
    assert first_frame(whole + rest, 100) == (kind, content, rest)
    assert all(first_frame(whole[:end], 100) is None for end in range(len(whole)))


def test_a_first_frame_has_a_limit_of_its_own() -> None:
    with pytest.raises(FramingError, match="at most 8"):
        first_frame(frame(Kind.OPEN, bytes(9)), 8)
