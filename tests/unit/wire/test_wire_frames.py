from __future__ import annotations

from baton.core.request import FinishReason, TokenLogprobs
from baton.wire.frames import FrameColumns, finish_of, frame_logprobs
from baton.wire.version import PROTOCOL_MAX, PROTOCOL_MIN, common_version


def test_frame_keeps_rows_in_order_with_their_logprobs() -> None:
    columns = FrameColumns()
    logprobs = TokenLogprobs(-0.5, (7, 8), (-0.5, -1.5))
    columns.add(1, 0, 4, 77, 0, None)
    columns.add(2, 1, 0, 78, int(FinishReason.STOP), logprobs)
    frame = columns.frame()
    rows = list(
        zip(frame.slot, frame.choice, frame.position, frame.token, frame.flags, strict=True)
    )
    assert rows == [(1, 0, 4, 77, 0), (2, 1, 0, 78, 1)]
    assert frame_logprobs(frame) == {1: logprobs}


def test_finish_reads_the_low_bits_only() -> None:
    assert finish_of(0) is None
    assert finish_of(0x10) is None
    assert [finish_of(reason) for reason in FinishReason] == list(FinishReason)
    assert finish_of(0x10 | FinishReason.LENGTH) is FinishReason.LENGTH


def test_unknown_finish_ends_the_choice_all_the_same() -> None:
    assert finish_of(15) is FinishReason.ERROR


def test_common_version_is_the_newest_both_speak() -> None:
    newest = PROTOCOL_MAX
    assert common_version(newest, newest) == newest
    assert common_version(PROTOCOL_MIN, newest + 9) == newest
    assert common_version(newest + 1, newest + 9) is None
    assert common_version(0, PROTOCOL_MIN - 1) is None
