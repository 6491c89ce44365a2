"""What crosses the wire: layout, Hello, bodies; and the books about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import BatonError, HandoffError
from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.transfer import messages
from baton.transfer.base import BlockWrite, WriteResult
from baton.transfer.hello import Greeter
from baton.transfer.inproc import InprocTransport
from baton.transfer.layout import (
    arena_from_proto,
    arena_to_proto,
    group_from_proto,
    group_to_proto,
    run_descriptors,
)
from baton.transfer.messages import GroupGrant
from baton.transfer.process import this_process
from baton.transfer.state import error_from_peer
from baton.transfer.write_ledger import WriteLedger
from baton.v1 import common_pb2
from baton.v1 import transfer_pb2 as pb
from fakes.handoff_messages import DUE, HASHES, LIVE, commit
from fakes.transfer import DIGEST, GROUP, make_arena

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
    there = arena_from_proto(arena_to_proto(arena), whole_slice(GROUP))
    assert (there.address, there.num_blocks, there.block_bytes) == (arena.address, 3, 1024)
    assert there.view is None
    assert there.held == arena.held
    rows = run_descriptors(there, [(0, 1024), (512, 256)]).tolist()
    assert rows == [[arena.address, 1024, 0, 1024, 3], [arena.address + 512, 256, 0, 1024, 3]]


def _greeter(name: str, arena: Arena | None = None, digest: str = DIGEST) -> Greeter:
    transport = InprocTransport(name)
    arena = arena or make_arena(2)
    transport.register([arena])
    me = common_pb2.WorkerRef(worker_id=name, epoch=5, address="127.0.0.1:1")
    return Greeter(me, digest, [GROUP], [arena], transport)


def test_hello_brings_what_is_needed_to_write() -> None:
    ours, theirs = _greeter("a"), _greeter("b")
    hello = ours.check(theirs.message)
    assert (hello.worker_id, hello.epoch, hello.shard.metadata) == ("b", 5, b"b.1")
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


def test_fetched_blocks_have_no_room_to_grow() -> None:
    offer = _offer()
    offer.ClearField("sequences")
    offer.growth_tokens = 8
    wanted = messages.read_offer(offer, frozenset(), 1)
    assert (wanted.num_tokens, wanted.growth_tokens, wanted.hashes) == (0, 0, (HASHES,))


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


GRANTED = pb.GrantedGroup(index=[0], block_id=[1], generation=[1])


@settings(max_examples=200)
@given(data=st.binary(max_size=120))
def test_no_bytes_make_reading_fail_otherwise_than_with_an_error_of_ours(data: bytes) -> None:
    for kind, read in (
        (pb.Offer, lambda m: messages.read_offer(m, {0}, 1)),
        (pb.Grant, lambda m: messages.read_grant(m, [GroupGrant()], DUE)),
        (
            pb.Commit,
            lambda m: messages.read_commit(m, {0}, [GRANTED], [HASHES], checksums=True),
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
    granted = pb.GrantedGroup(index=[0, 1, 2], block_id=[20, 21, 22], generation=[5, 6, 7])
    read = messages.read_commit(message, {0}, [granted], [HASHES], checksums=True)
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


def test_block_skipped_beyond_the_end_of_growth_stands_for_no_other() -> None:
    ledger = WriteLedger((3,))
    ledger.granted[0].blocks.update({0: (20, 1), 1: (21, 1)})
    ledger.granted[0].skip.add(2)
    ledger.add_ready((0,), ((10,),))
    first = ledger.take_sendable()
    assert first is not None and ledger.settle(first.write_id, WriteResult(((5,),), 8))
    ledger.add_ready((1,), ((11,),))
    ledger.end_growth()
    assert not ledger.complete
    last = ledger.take_sendable()
    assert last is not None and ledger.settle(last.write_id, WriteResult(((6,),), 8))
    assert ledger.complete


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
