"""Full blocks as records on the wire: who offers what, what is written, what is decoded when."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable

import numpy as np
import pytest

from baton.core.errors import HandoffError
from baton.core.kv import Arena, GroupSpec, ShardSlice, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer import messages
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.inproc import InprocTransport
from baton.transfer.state import BlockCheck
from baton.transfer.verifier import Check, Verifier
from baton.transfer.wire_codec import choose, decode_in_place, encode_block, is_record, wire_codecs
from baton.transfer.write_ledger import WriteLedger
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import DUE, HASHES
from fakes.transfer import GROUP, make_arena, make_int8_world

INT8 = TransferSettings(codec="int8")
[CODEC] = wire_codecs(INT8, [GROUP], [make_arena()])


# --- what is offered and chosen ---


def test_plain_is_the_default() -> None:
    assert wire_codecs(TransferSettings(), [GROUP], [make_arena()]) == ()


def test_records_are_smaller_than_their_blocks() -> None:
    assert CODEC.record_bytes < GROUP.block_bytes


@pytest.mark.parametrize(
    ("settings", "spec", "change"),
    [
        (TransferSettings(codec="int8", checksum="off"), GROUP, {}),
        (INT8, dataclasses.replace(GROUP, dtype="uint8"), {}),
        (INT8, dataclasses.replace(GROUP, k_dim=2, v_dim=2, dtype="float16"), {}),
        (INT8, GROUP, {"memory": "VRAM"}),
        (INT8, GROUP, {"held": ShardSlice((0, 2), (0, 1))}),
    ],
    ids=["no checksums", "no numbers", "not smaller", "a device's", "half of the heads"],
)
def test_where_there_are_no_records(
    settings: TransferSettings, spec: GroupSpec, change: dict[str, object]
) -> None:
    arena = dataclasses.replace(make_arena(2, spec.block_bytes), held=whole_slice(spec))
    assert wire_codecs(settings, [spec], [dataclasses.replace(arena, **change)]) == ()


@pytest.mark.parametrize(
    ("offered", "ours", "chosen"),
    [
        (("int8",), (CODEC,), "int8"),
        (("zip", "int8"), (CODEC,), "int8"),
        (("int8",), (), ""),
        ((), (CODEC,), ""),
        (("zip",), (CODEC,), ""),
    ],
)
def test_both_sides_must_have_the_codec(offered: tuple[str, ...], ours: tuple, chosen: str) -> None:
    assert choose(offered, ours) == chosen


def test_codecs_cross_in_offer_and_grant() -> None:
    due = dataclasses.replace(DUE, codecs=("int8",))
    assert messages.read_offer(messages.offer_body(due, {0}, 1.0), {0}, 1).codecs == ("int8",)
    assert messages.grant_body((), 1, "int8").codec == "int8"
    messages.read_grant(pb.Grant(codec="int8"), [], due)
    with pytest.raises(HandoffError, match="not offered"):
        messages.read_grant(pb.Grant(codec="int8"), [], DUE)


# --- what is written ---


def ledger(codec: str) -> WriteLedger:
    """Three blocks, two of them full."""
    books = WriteLedger([3])
    books.use_codec(codec, [HASHES[:2]])
    books.granted[0].blocks = {i: (10 + i, 0) for i in range(3)}
    return books


def test_full_blocks_go_as_records_and_the_tail_goes_plain() -> None:
    books = ledger("int8")
    books.add_ready((0,), ((5, 6, 7),))
    write = books.take_sendable()
    assert write is not None and write.writes == (
        BlockWrite(0, (5, 6), (10, 11), codec="int8"),
        BlockWrite(0, (7,), (12,)),
    )
    books.settle(write.write_id, WriteResult(((1, 2), (3,)), 9))
    assert books.complete and books.checksums == [{0: 1, 1: 2, 2: 3}]


def test_records_wait_for_all_layers() -> None:
    books = ledger("int8")
    for part in range(3):
        books.add_ready((0,), ((5, 6, 7),), part, 4)
        assert books.take_sendable() is None
    assert not books.complete
    books.add_ready((0,), ((5, 6, 7),), 3, 4)
    write = books.take_sendable()
    assert write is not None and [w.codec for w in write.writes] == ["int8", ""]
    assert [w.num_parts for w in write.writes] == [1, 1]


def test_plain_blocks_still_go_part_by_part() -> None:
    books = ledger("")
    books.add_ready((0,), ((5, 6, 7),), 0, 2)
    write = books.take_sendable()
    assert write is not None and write.writes == (BlockWrite(0, (5, 6, 7), (10, 11, 12), 0, 2),)


# --- what lands ---


def floats(arena: Arena) -> np.ndarray:
    found: np.ndarray = arena.view.view(np.float32)
    return found


def numbers(arena: Arena, seed: int = 0) -> None:
    floats(arena)[:] = np.random.default_rng(seed).normal(size=floats(arena).shape)


def close(found: np.ndarray, sent: np.ndarray) -> bool:
    """Within half a scale of each vector."""
    vectors = sent.reshape(-1, GROUP.k_dim)
    bound = np.abs(vectors).max(axis=-1, keepdims=True) * (0.5 / 127 + 1e-6)
    return bool((np.abs(found.reshape(-1, GROUP.k_dim) - vectors) <= bound).all())


def test_record_and_block_are_told_apart_and_anything_else_is_refused() -> None:
    arena = make_arena(2)
    numbers(arena)
    block, sent = arena.view[0], floats(arena)[0].copy()
    plain = encode_block(CODEC, block, arena.view[1][: CODEC.record_bytes])
    assert plain is not None
    block[: CODEC.record_bytes] = arena.view[1][: CODEC.record_bytes]
    assert is_record(CODEC, block, plain) is True
    assert is_record(CODEC, block, plain ^ 1) is None
    decode_in_place(CODEC, block, np.empty(CODEC.record_bytes, np.uint8))
    assert close(floats(arena)[0], sent)


def test_inproc_writes_records_and_blocks_that_have_none() -> None:
    source, _, here, there = make_int8_world()
    numbers(here)
    floats(here)[1, 3] = np.inf
    results: queue.Queue[WriteResult] = queue.Queue()
    source.send("target", [BlockWrite(0, (0, 1), (4, 5), codec="int8")], results.put, 1.0)
    result = results.get(timeout=10)
    assert result.error is None
    assert result.num_bytes == CODEC.record_bytes + GROUP.block_bytes
    # Nothing behind the record is touched.
    assert not there.view[4, CODEC.record_bytes :].any()
    check = Check([there], [CODEC], [BlockCheck(0, (4, 5), result.checksums[0])])
    assert check.run() is None
    assert close(floats(there)[4], floats(here)[0])
    assert (there.view[5] == here.view[1]).all()


@pytest.mark.parametrize("position", [0, CODEC.record_bytes - 1])
def test_no_block_is_decoded_unless_all_are_right(position: int) -> None:
    source, _, here, there = make_int8_world()
    numbers(here)
    results: queue.Queue[WriteResult] = queue.Queue()
    source.send("target", [BlockWrite(0, (0, 1), (4, 5), codec="int8")], results.put, 1.0)
    sums = results.get(timeout=10).checksums[0]
    there.view[5, position] ^= 1
    before = there.view.copy()
    problem = Check([there], [CODEC], [BlockCheck(0, (4, 5), sums)]).run()
    assert problem is not None and "block 5 of group 0" in problem
    assert (there.view == before).all()


def test_codec_that_a_transport_does_not_have_is_refused() -> None:
    plain, other, arena = InprocTransport("plain-a"), InprocTransport("plain-b"), make_arena(2)
    plain.register([arena])
    other.register([make_arena(2)])
    assert plain.codecs == ()
    plain.connect("b", [PeerShard(other.endpoint_metadata(), (arena,))])
    with pytest.raises(HandoffError, match="cannot be written as int8"):
        plain.send("b", [BlockWrite(0, (0,), (1,), codec="int8")], lambda result: None, 1.0)


def test_records_are_not_cut_nor_divided_between_ranks() -> None:
    source, target, _, there = make_int8_world()
    with pytest.raises(HandoffError, match="int8"):
        source.send("target", [BlockWrite(0, (0,), (1,), 0, 2, "int8")], lambda r: None, 1.0)
    half = dataclasses.replace(
        there, held=ShardSlice((0, 2), (0, 1)), block_bytes=GROUP.block_bytes // 2
    )
    source.connect("half", [PeerShard(target.endpoint_metadata(), (half,))])
    with pytest.raises(HandoffError, match="int8"):
        source.send("half", [BlockWrite(0, (0,), (1,), codec="int8")], lambda r: None, 1.0)


# --- when blocks change ---


class _Gate:
    """A codec whose first decoding waits."""

    name = CODEC.name
    record_bytes = CODEC.record_bytes

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def encode(self, block: np.ndarray, record: np.ndarray) -> None:
        CODEC.encode(block, record)

    def decode(self, record: np.ndarray, block: np.ndarray) -> None:
        self.entered.set()
        assert self.open.wait(30)
        CODEC.decode(record, block)


def test_no_block_changes_once_the_check_is_stopped() -> None:
    """The blocks of a handoff that is cancelled meanwhile are another's at once."""
    arena, records = make_arena(3), make_arena(3)
    numbers(records)
    sums = []
    for i in range(3):
        checksum = encode_block(CODEC, records.view[i], arena.view[i][: CODEC.record_bytes])
        assert checksum is not None
        sums.append(checksum)
    gate = _Gate()
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    verifier = Verifier([arena], posted.put, [gate])
    check = verifier.check(
        [BlockCheck(0, (0, 1, 2), tuple(sums))], [arena], lambda problem: None, is_encoded=True
    )
    assert check is not None and gate.entered.wait(30)
    stopping = threading.Thread(target=check.stop)
    stopping.start()
    gate.open.set()
    stopping.join(30)
    assert not stopping.is_alive()
    arena.view[:] = 7
    posted.get(timeout=30)()
    assert (arena.view == 7).all()
    verifier.close()


def test_check_that_was_stopped_decodes_nothing() -> None:
    source, _, here, there = make_int8_world()
    numbers(here)
    results: queue.Queue[WriteResult] = queue.Queue()
    source.send("target", [BlockWrite(0, (0, 1), (4, 5), codec="int8")], results.put, 1.0)
    check = Check([there], [CODEC], [BlockCheck(0, (4, 5), results.get(timeout=10).checksums[0])])
    before = there.view.copy()
    check.stop()
    assert check.run() == "the check was stopped"
    assert (there.view == before).all()
