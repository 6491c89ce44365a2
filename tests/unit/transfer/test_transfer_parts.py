"""The small parts around the handoff machines."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from baton.core.errors import BatonError, HandoffError
from baton.core.kv import GroupSpec
from baton.transfer import messages
from baton.transfer.base import Arena, BlockWrite, WriteResult
from baton.transfer.checksum import (
    block_checksums,
    common_algorithm,
    sum64_numpy,
    sum64_torch,
)
from baton.transfer.hello import Greeter
from baton.transfer.inproc import InprocTransport
from baton.transfer.layout import (
    arena_from_proto,
    arena_to_proto,
    block_descriptors,
    group_from_proto,
    group_to_proto,
)
from baton.transfer.messages import GroupGrant
from baton.transfer.parking import MAX_PARKED, Parking
from baton.transfer.process import ProcessRef, is_dead, node, this_process
from baton.transfer.state import BlockCheck, error_from_peer
from baton.transfer.verifier import INLINE_BYTES, Verifier, find_problem
from baton.transfer.write_ledger import WriteLedger
from baton.v1 import common_pb2
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import DUE, HASHES, LIVE, commit
from fakes.transfer import DIGEST, GROUP, fill, make_arena
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

# --- checksums ---


@settings(max_examples=30)
@given(
    num_bytes=st.sampled_from([8, 64, 13, 4096]),
    position=st.integers(0, 4095),
    change=st.integers(1, 255),
)
def test_both_checksums_see_any_changed_byte(num_bytes: int, position: int, change: int) -> None:
    arena = make_arena(2, num_bytes)
    fill(arena, [0], seed=num_bytes)
    arena.view[1] = arena.view[0]
    arena.view[1, position % num_bytes] ^= change
    for algorithm in ("xxh3", "sum64"):
        same, changed = block_checksums(arena, [0, 1], algorithm)
        assert same != changed


@pytest.mark.parametrize("num_bytes", [8, 13, 1024])
def test_torch_and_numpy_agree_on_the_weighted_sum(num_bytes: int) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (5, num_bytes), dtype=np.uint8)
    assert sum64_numpy(blocks) == sum64_torch(torch.from_numpy(blocks))


def test_weighted_sum_is_the_formula() -> None:
    words = np.array([[3, -1, 2**62]], dtype=np.int64)
    assert sum64_numpy(words.view(np.uint8)) == [(3 * 1 - 1 * 3 + 2**62 * 5) % 2**64]


def test_swapped_words_change_the_weighted_sum() -> None:
    words = np.array([[3, 4], [4, 3]], dtype=np.int64).view(np.uint8)
    first, second = sum64_numpy(words)
    assert first != second


def test_pairs_agree_on_the_checksum_by_their_memories() -> None:
    host, device = make_arena(1), Arena(0, 0, 1, GROUP.block_bytes, "VRAM", 0, None)
    assert common_algorithm([host], [host]) == "xxh3"
    assert common_algorithm([host], [device]) == common_algorithm([device], [host]) == "sum64"


# --- verification ---


def test_verifier_names_the_block_that_differs() -> None:
    arena = make_arena(4)
    fill(arena, [0, 1, 2], seed=3)
    sums = tuple(block_checksums(arena, [0, 1, 2], "xxh3"))
    check = BlockCheck(0, (0, 1, 2), sums)
    assert find_problem([arena], [check], "xxh3") is None
    arena.view[1, 5] ^= 1
    assert "block 1 of group 0" in (find_problem([arena], [check], "xxh3") or "")
    assert find_problem([arena], [BlockCheck(0, (1,), ())], "xxh3") is None


@pytest.mark.parametrize("block_bytes", [1024, INLINE_BYTES + 8])
def test_big_handoffs_are_checked_off_the_loop(block_bytes: int) -> None:
    arena = make_arena(1, block_bytes)
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    answers: list[str | None] = []
    verifier = Verifier([arena], posted.put)
    sums = tuple(block_checksums(arena, [0], "xxh3"))
    verifier.check([BlockCheck(0, (0,), sums)], "xxh3", answers.append)
    assert answers == ([None] if block_bytes <= INLINE_BYTES else [])
    if not answers:
        posted.get(timeout=60)()
    assert answers == [None]
    verifier.close()


def test_check_that_cannot_be_done_is_not_passed() -> None:
    posted: queue.Queue[Callable[[], None]] = queue.Queue()
    answers: list[str | None] = []
    verifier = Verifier([make_arena(1, INLINE_BYTES + 8)], posted.put)
    # There is no block 7.
    verifier.check([BlockCheck(0, (7,), (1,))], "xxh3", answers.append)
    posted.get(timeout=60)()
    assert "check itself failed" in (answers[0] or "")
    verifier.close()


# --- proof of death ---


def test_processes_that_live_here_are_not_dead() -> None:
    me = this_process()
    assert me.pid == os.getpid() and me.start > 0 and me.node == node()
    assert not is_dead(me)


def test_ended_process_is_dead_and_so_is_one_whose_pid_was_used_again() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    # Its start is not known to us: only the pid counts.
    ref = ProcessRef(child.pid, 0, node())
    assert not is_dead(ref)
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert is_dead(ref)
    me = this_process()
    assert is_dead(ProcessRef(me.pid, me.start + 1, me.node))


def test_nothing_is_proven_of_other_nodes() -> None:
    for where in ("", "another-boot/pid:[1]"):
        assert not is_dead(ProcessRef(2**22 + 1, 5, where))
    assert not is_dead(ProcessRef(0, 0, node()))


# --- layout and Hello ---

SPECS = [
    GROUP,
    GroupSpec("window", 3, 1, 64, 64, 16, "bfloat16", window=128),
    GroupSpec("mla", 3, 1, 512, 64, 16, "bfloat16"),
]


@pytest.mark.parametrize("spec", SPECS)
def test_group_specs_survive_the_wire(spec: GroupSpec) -> None:
    assert group_from_proto(group_to_proto(spec)) == spec


def test_arenas_survive_the_wire_as_addresses_only() -> None:
    arena = make_arena(3)
    there = arena_from_proto(arena_to_proto(arena))
    assert (there.address, there.num_blocks, there.block_bytes) == (arena.address, 3, 1024)
    assert there.view is None
    assert block_descriptors(there).tolist() == [[arena.address, 1024, 0, 1024, 3]]


def _greeter(name: str, arena: Arena | None = None, digest: str = DIGEST) -> Greeter:
    transport = InprocTransport(name)
    arena = arena or make_arena(2)
    transport.register([arena])
    me = common_pb2.WorkerRef(worker_id=name, epoch=5, address="127.0.0.1:1")
    return Greeter(me, digest, [GROUP], [arena], transport)


def test_hello_brings_what_is_needed_to_write() -> None:
    ours, theirs = _greeter("a"), _greeter("b")
    hello = ours.check(theirs.message)
    assert (hello.worker_id, hello.epoch, hello.metadata) == ("b", 5, b"b.1")
    assert hello.process == this_process()
    assert hello.arenas[0].block_bytes == GROUP.block_bytes


def _edit(field: str, value: object) -> Callable[[pb.Hello], None]:
    return lambda hello: setattr(hello, field, value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_edit("digest", "x"), "KV digest"),
        (_edit("protocol_min", 7), "handoff protocol 7"),
        (lambda h: h.worker.Clear(), "no worker"),
        (lambda h: setattr(h.worker, "worker_id", "a"), "own name"),
        (lambda h: h.groups.add(), "attention groups"),
        (lambda h: h.shards.add(), "2 shards"),
        (lambda h: setattr(h.shards[0].arenas[0], "block_bytes", 8), "block sizes"),
    ],
)
def test_hello_that_does_not_fit_is_refused(edit: Callable[[pb.Hello], None], words: str) -> None:
    message = _greeter("b").message
    edit(message.hello)
    with pytest.raises(HandoffError, match=words):
        _greeter("a").check(message)


# --- messages ---


def test_offer_is_read_as_it_was_built() -> None:
    offer = messages.offer_body(DUE, {2, 0}, 3.0)
    assert offer.grant_wait_ms == 3000
    wanted = messages.read_offer(offer, {0, 2}, 1)
    assert (wanted.num_tokens, wanted.hashes, wanted.num_blocks) == (10, (HASHES,), (3,))


def _offer() -> pb.Offer:
    return messages.offer_body(DUE, {0}, 1.0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda o: o.groups.add(group=1),
        lambda o: setattr(o.groups[0], "group", 3),
        lambda o: setattr(o.groups[0], "hashes", b"short"),
        lambda o: setattr(o.groups[0], "num_blocks", 4),
        lambda o: setattr(o.groups[0], "num_blocks", 1),
        lambda o: o.sequences.add(choice=1, num_tokens=10),
        lambda o: setattr(o.sequences[0], "choice", 1),
        lambda o: o.sequences[0].groups.add(),
        lambda o: o.sequences[0].groups[0].index.extend([0, 2]),
        lambda o: o.ClearField("sequences"),
    ],
)
def test_offer_that_contradicts_the_request_is_refused(edit: Callable[[pb.Offer], None]) -> None:
    offer = _offer()
    edit(offer)
    with pytest.raises(BatonError):
        messages.read_offer(offer, {0}, 1)


def test_offer_may_spell_its_blocks_out() -> None:
    offer = _offer()
    offer.sequences[0].groups[0].index.extend([0, 1, 2])
    assert messages.read_offer(offer, {0}, 1).num_blocks == (3,)


@pytest.mark.parametrize(
    "group",
    [
        pb.GrantedGroup(group=1),
        pb.GrantedGroup(index=[0], block_id=[1]),
        pb.GrantedGroup(index=[3], block_id=[1], generation=[1]),
        pb.GrantedGroup(skip=[3]),
    ],
)
def test_grant_of_what_was_not_offered_is_refused(group: pb.GrantedGroup) -> None:
    with pytest.raises(HandoffError):
        messages.read_grant(pb.Grant(groups=[group]), [GroupGrant()], DUE)


@settings(max_examples=200)
@given(data=st.binary(max_size=120))
def test_no_bytes_make_reading_fail_otherwise_than_with_an_error_of_ours(data: bytes) -> None:
    for kind, read in (
        (pb.Offer, lambda m: messages.read_offer(m, {0}, 1)),
        (pb.Grant, lambda m: messages.read_grant(m, [GroupGrant()], DUE)),
        (
            pb.Commit,
            lambda m: messages.read_commit(m, {0}, [{0: (1, 1)}], [HASHES], checksums=True),
        ),
    ):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        try:
            read(message)
        except BatonError:
            continue


def test_finish_reasons_of_newer_peers_end_a_choice() -> None:
    message = commit(outputs=LIVE)
    message.sequences[0].finish_reason = 99
    granted = [{0: (20, 5), 1: (21, 6), 2: (22, 7)}]
    read = messages.read_commit(message, {0}, granted, [HASHES], checksums=True)
    assert read.outputs[0].finish is not None


@pytest.mark.parametrize("code", ["", "checksum_mismatch", "unknown", "of the future"])
def test_reasons_that_name_no_error_can_be_retried(code: str) -> None:
    error = error_from_peer(code, "why")
    assert isinstance(error, HandoffError) and "why" in error.message


# --- ledger ---


def test_ledger_is_complete_when_every_block_is_written_or_skipped() -> None:
    ledger = WriteLedger((2, 1))
    ledger.granted[0].blocks[1] = (21, 1)
    ledger.granted[0].skip.add(0)
    ledger.granted[1].blocks[0] = (30, 1)
    ledger.add_ready((0, 0), ((10, 11), (12,)))
    write = ledger.take_sendable()
    assert write is not None
    assert write.writes == (BlockWrite(0, (11,), (21,)), BlockWrite(1, (12,), (30,)))
    assert ledger.take_sendable() is None and not ledger.complete
    assert ledger.settle(write.write_id, WriteResult(((5,), (6,)), 8))
    assert ledger.complete and not ledger.may_land
    assert ledger.checksums == [{1: 5}, {0: 6}]


def test_ledger_knows_what_may_still_land() -> None:
    ledger = WriteLedger((1,))
    ledger.granted[0].blocks[0] = (20, 1)
    ledger.add_ready((0,), ((10,),))
    write = ledger.take_sendable()
    assert write is not None and ledger.in_flight
    assert ledger.settle(write.write_id, WriteResult((), 0, error="hung", quiesced=False))
    assert not ledger.in_flight and ledger.may_land
    assert not ledger.settle(write.write_id, WriteResult((), 0, error="late"))
    assert not ledger.may_land


# --- parking ---

ME, PEER = 9, ("peer", 4)


def _message(handoff: int = 0, **body: object) -> pb.HandoffMessage:
    return pb.HandoffMessage(
        handoff_id=handoff.to_bytes(16, "big"), source_epoch=4, target_epoch=ME, **body
    )


def test_early_messages_wait_in_order_and_once() -> None:
    parking = Parking(5.0)
    offer, fail = _message(offer=pb.Offer()), _message(fail=pb.Fail())
    for message in (offer, offer, fail, offer):
        assert parking.receive(PEER, message, ME, 0.0) is None
    assert parking.take(offer.handoff_id, PEER) == [offer, fail]
    assert len(parking) == 0


def test_early_messages_of_another_peer_are_not_taken() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    assert parking.take(_message().handoff_id, ("thief", 4)) == []


def test_offers_without_a_submission_are_refused_in_time() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    assert parking.expire(4.9) == []
    ((peer_id, refusal),) = parking.expire(5.0)
    assert peer_id == PEER and refusal.rejected.code == "unknown"


def test_parking_is_bounded() -> None:
    parking = Parking(5.0)
    for n in range(MAX_PARKED):
        assert parking.receive(PEER, _message(n, offer=pb.Offer()), ME, 0.0) is None
    refused = parking.receive(PEER, _message(MAX_PARKED, offer=pb.Offer()), ME, 0.0)
    assert refused is not None and refused.rejected.code == "unknown"


def test_what_a_lost_peer_offered_is_forgotten() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    parking.forget(PEER)
    assert len(parking) == 0


# --- inproc ---


def test_recreated_agent_does_not_take_what_was_under_way() -> None:
    source, target = InprocTransport("s"), InprocTransport("t")
    here, there = make_arena(2), make_arena(2)
    fill(here, [0, 1], seed=1)
    source.register([here])
    target.register([there])
    source.connect("t", target.endpoint_metadata(), [there])
    source.faults.hold = 1
    results: list[WriteResult] = []
    source.send("t", [BlockWrite(0, (0,), (1,))], results.append, 1.0)
    target.recreate()
    source.release_held()
    assert results[0].error is not None and results[0].quiesced
    assert not there.view.any()
    with pytest.raises(HandoffError, match="not connected"):
        source.send("nobody", [], results.append, 1.0)
