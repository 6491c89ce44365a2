"""Handoffs whose full blocks cross as int8: in one process, and by NIXL between two."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from baton.core.errors import HandoffError
from baton.core.handoff import BlocksReady, MoveStopped, SourceOutput
from baton.core.kv import Arena, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer.base import BlockWrite, PeerShard, WriteResult
from baton.transfer.nixl import NixlTransport
from baton.transfer.wire_codec import wire_codecs
from fakes.encoded_memory import NUM_BLOCKS, SPEC, WIRE, make_memory, memory_main
from fakes.nixl_process import Child, child
from fakes.transfer import GROUP, FakeWorker, Handoff, due_of, hashes_of, make_arena
from fakes.until import until
from fakes.worker_pair import nothing_left, workers

INT8 = TransferSettings(codec="int8")
[CODEC] = wire_codecs(INT8, [GROUP], [make_arena()])


def fill_numbers(arena: Arena, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Normal KV in the first blocks, as float32 [block, element]."""
    values = arena.view.view(np.float32)
    shape = (num_blocks, values.shape[1])
    values[:num_blocks] = np.random.default_rng(seed).normal(size=shape)
    found: np.ndarray = values[:num_blocks].copy()
    return found


def is_close(found: np.ndarray, sent: np.ndarray, dim: int) -> bool:
    """Within half a scale of each vector, and not the same."""
    error = np.abs(found - sent).reshape(-1, dim)
    largest = np.abs(sent).reshape(-1, dim).max(axis=-1, keepdims=True)
    return bool(error.any() and (error <= largest * (0.5 / 127 + 1e-6)).all())


# --- in one process ---


@contextlib.asynccontextmanager
async def pair_of(
    at_source: TransferSettings, at_target: TransferSettings
) -> AsyncIterator[tuple[FakeWorker, FakeWorker]]:
    number = os.urandom(4).hex()
    source = await FakeWorker(f"source-{number}", settings=at_source).start()
    target = await FakeWorker(f"target-{number}", settings=at_target).start()
    try:
        yield source, target
    finally:
        await source.stop()
        await target.stop()


async def hand_over(handoff: Handoff) -> np.ndarray:
    """All of it, of blocks with numbers in them; what they held."""
    handoff.submit().offer()
    sent = fill_numbers(handoff.source.arena, handoff.num_blocks)
    handoff.compute()
    await until(lambda: handoff.ended)
    return sent


def arrived(handoff: Handoff) -> np.ndarray:
    ids = list(handoff.target.host.adopted_blocks[handoff.target_key])
    found: np.ndarray = handoff.target.arena.view.view(np.float32)[ids]
    return found


async def test_full_blocks_come_within_the_bound_and_the_tail_exactly() -> None:
    async with workers(settings=INT8) as (source, target):
        handoff = Handoff(source, target)
        sent = await hand_over(handoff)
        found = arrived(handoff)
        assert is_close(found[:2], sent[:2], GROUP.k_dim)
        assert (found[2] == sent[2]).all()
        timing = source.host.handed[handoff.source_key]
        assert timing.num_bytes == 2 * CODEC.record_bytes + GROUP.block_bytes
        assert nothing_left(source, target)


async def test_blocks_computed_layer_by_layer_come_whole() -> None:
    async with workers(settings=INT8) as (source, target):
        handoff = Handoff(source, target).submit().offer()
        sent = fill_numbers(source.arena, handoff.num_blocks)
        await until(lambda: source.host.grants)
        key, ids = handoff.source_key, (handoff.ids,)
        source.handoffs.blocks_ready(BlocksReady(key, (0,), ids, False, 0, 2))
        outputs = {0: SourceOutput((7,), None)}
        source.handoffs.blocks_ready(BlocksReady(key, (0,), ids, True, 1, 2), outputs)
        await until(lambda: handoff.ended)
        assert is_close(arrived(handoff)[:2], sent[:2], GROUP.k_dim)


@pytest.mark.parametrize(
    ("at_source", "at_target"),
    [
        (INT8, TransferSettings()),
        (TransferSettings(), INT8),
        (TransferSettings(codec="int8", checksum="off"), INT8),
    ],
    ids=["not at the target", "not at the source", "no checksums"],
)
async def test_one_side_without_the_codec_makes_it_plain(
    at_source: TransferSettings, at_target: TransferSettings
) -> None:
    at_target = at_target.model_copy(update={"checksum": at_source.checksum})
    async with pair_of(at_source, at_target) as (source, target):
        handoff = Handoff(source, target)
        sent = await hand_over(handoff)
        assert (arrived(handoff) == sent).all()
        timing = source.host.handed[handoff.source_key]
        assert timing.num_bytes == handoff.num_blocks * GROUP.block_bytes


async def test_sequence_that_decodes_on_is_moved_plain() -> None:
    async with workers(settings=INT8) as (source, target):
        handoff = Handoff(source, target).submit()
        sent = fill_numbers(source.arena, handoff.num_blocks)
        due = replace(due_of(handoff.source_key, handoff.request), growth_tokens=2)
        outputs = {0: SourceOutput((7,), None)}
        # Two blocks are ready when it begins, the last one when it stops.
        stop = MoveStopped(handoff.source_key, (2,), (handoff.ids[2:],), ((),), outputs)
        source.host.stops[handoff.source_key] = stop
        source.handoffs.offer(due)
        ready = BlocksReady(handoff.source_key, (0,), (handoff.ids[:2],), False)
        source.handoffs.blocks_ready(ready)
        await until(lambda: handoff.ended)
        assert (arrived(handoff) == sent).all()


async def test_changed_record_is_never_adopted() -> None:
    async with workers(settings=INT8) as (source, target):
        source.transport.faults.corrupt = 1
        handoff = Handoff(source, target)
        await hand_over(handoff)
        for error in handoff.failures():
            assert isinstance(error, HandoffError) and "checksum_mismatch" in error.message
        assert not target.host.adopted and nothing_left(source, target)


async def test_failed_write_is_encoded_and_sent_again() -> None:
    async with workers(settings=INT8) as (source, target):
        source.transport.faults.fail = 1
        handoff = Handoff(source, target)
        sent = await hand_over(handoff)
        assert is_close(arrived(handoff)[:2], sent[:2], GROUP.k_dim)


async def test_block_with_infinite_elements_comes_exactly() -> None:
    async with workers(settings=INT8) as (source, target):
        handoff = Handoff(source, target).submit().offer()
        sent = fill_numbers(source.arena, handoff.num_blocks)
        source.arena.view.view(np.float32)[1, 5] = sent[1, 5] = np.inf
        handoff.compute()
        await until(lambda: handoff.ended)
        found = arrived(handoff)
        assert is_close(found[:1], sent[:1], GROUP.k_dim)
        assert (found[1:] == sent[1:]).all()


async def test_held_blocks_are_not_sent_and_the_others_are_encoded() -> None:
    async with workers(settings=INT8) as (source, target):
        handoff = Handoff(source, target)
        held = 10
        target.host.cache[hashes_of(handoff.request)[0]] = held
        target.host.free.discard(held)
        target.arena.view[held] = 9
        sent = await hand_over(handoff)
        assert is_close(arrived(handoff)[:1], sent[1:2], GROUP.k_dim)
        assert (target.arena.view[held] == 9).all()


async def test_cancelled_while_it_is_decoded_leaves_nothing() -> None:
    async with workers(settings=INT8) as (source, target):
        for number in range(20):
            handoff = Handoff(source, target, number).submit().offer()
            fill_numbers(source.arena, handoff.num_blocks)
            handoff.compute()
            entry = target.handoffs._entries.find(handoff.handoff_id)
            assert entry is not None
            await until(lambda e=entry, h=handoff: e.check is not None or h.ended)
            target.handoffs.cancel(handoff.target_key, "client gone")
            if handoff.target_key in target.host.adopted:
                target.host.finish(handoff.target_key)
            else:
                # Whose they are now must find them as they left them.
                target.arena.view[:] = 5
                await until(lambda h=handoff: h.source_key in source.host.failures)
                assert (target.arena.view == 5).all()
        await until(lambda: nothing_left(source, target))


# --- by NIXL ---


class Source:
    """This process's end."""

    def __init__(self, target: Child) -> None:
        self.arena = make_memory()
        self.codecs = wire_codecs(WIRE, [SPEC], [self.arena])
        self.transport = NixlTransport(f"int8-source-{os.getpid()}", WIRE)
        self.transport.register([self.arena], self.codecs)
        metadata, self._address = target.answer()
        self.connect(metadata)
        self.results: queue.Queue[WriteResult] = queue.Queue()

    def connect(self, metadata: bytes) -> None:
        size = (NUM_BLOCKS, SPEC.block_bytes)
        there = Arena(0, self._address, *size, "DRAM", 0, None, whole_slice(SPEC))
        self.transport.connect("target", [PeerShard(metadata, (there,))])

    def write(self, local: list[int], remote: list[int], timeout_s: float = 30.0) -> WriteResult:
        write = BlockWrite(0, tuple(local), tuple(remote), codec="int8")
        self.transport.send("target", [write], self.results.put, timeout_s)
        return self.results.get(timeout=60)


@contextlib.contextmanager
def nixl_pair() -> Iterator[tuple[Source, Child]]:
    with child(memory_main) as target:
        source = Source(target)
        try:
            yield source, target
        finally:
            source.transport.close()


@pytest.fixture(autouse=True)
def _ucx_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    # The transport sets these for its process; they must not reach the next test.
    for name in ("UCX_TLS", "UCX_NET_DEVICES", "UCX_LOG_LEVEL", "NIXL_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def numbers(blocks: Any) -> np.ndarray:
    found: np.ndarray = blocks.view(np.float32)
    return found


def test_records_of_many_pieces_arrive_and_decode() -> None:
    with nixl_pair() as (source, target):
        sent = fill_numbers(source.arena, NUM_BLOCKS)
        # Some have no record, among those that do.
        strange = [7, 8, 300]
        source.arena.view.view(np.float32)[strange, 11] = sent[strange, 11] = np.inf
        rng = np.random.default_rng(0)
        local = rng.permutation(NUM_BLOCKS).tolist()
        remote = rng.permutation(NUM_BLOCKS).tolist()
        record_bytes = source.codecs[0].record_bytes
        assert NUM_BLOCKS * record_bytes > 8 * 2**20, "the staging is used again"
        for _ in range(2):
            result = source.write(local, remote)
            assert result.error is None and result.quiesced
            plain = len(strange)
            expected = (NUM_BLOCKS - plain) * record_bytes + plain * SPEC.block_bytes
            assert result.num_bytes == expected < 0.28 * NUM_BLOCKS * SPEC.block_bytes
            assert target.ask("check", tuple(remote), result.checksums[0]) is None
            found = numbers(target.ask("blocks", remote))
            exact = [i for i, block in enumerate(local) if block in strange]
            assert (found[exact] == sent[local][exact]).all()
            lossy = [i for i, block in enumerate(local) if block not in strange]
            assert is_close(found[lossy], sent[local][lossy], SPEC.k_dim)


def test_record_changed_on_its_way_is_found() -> None:
    with nixl_pair() as (source, target):
        fill_numbers(source.arena, 4)
        result = source.write([0, 1, 2], [3, 4, 5])
        target.ask("flip", 4, source.codecs[0].record_bytes - 1)
        before = target.ask("blocks", [3, 4, 5])
        assert "block 4" in target.ask("check", (3, 4, 5), result.checksums[0])
        # Nothing was decoded.
        assert (target.ask("blocks", [3, 4, 5]) == before).all()


def test_writes_to_a_recreated_target_go_on() -> None:
    with nixl_pair() as (source, target):
        sent = fill_numbers(source.arena, 4)
        assert source.write([0], [0]).error is None
        metadata = target.ask("recreate")
        assert source.write([1], [1]).error is not None
        source.connect(metadata)
        result = source.write([2], [2])
        assert result.error is None
        assert target.ask("check", (2,), result.checksums[0]) is None
        assert is_close(numbers(target.ask("blocks", [2])), sent[2:3], SPEC.k_dim)


def test_recreated_source_encodes_again() -> None:
    with nixl_pair() as (source, target):
        sent = fill_numbers(source.arena, 4)
        assert source.write([0], [0]).error is None
        source.transport.recreate()
        source.connect(target.ask("recreate"))
        result = source.write([2], [2])
        assert result.error is None
        assert target.ask("check", (2,), result.checksums[0]) is None
        assert is_close(numbers(target.ask("blocks", [2])), sent[2:3], SPEC.k_dim)


def test_given_up_write_to_a_frozen_target_leaves_the_others_right() -> None:
    """Its staging is used again, while what it holds may still be read."""
    with nixl_pair() as (source, target):
        sent = fill_numbers(source.arena, NUM_BLOCKS)
        assert source.write([0], [0]).error is None
        target.freeze()
        everything = list(range(NUM_BLOCKS))
        hung = WriteResult((), 0)
        while hung.quiesced:
            # On a slow machine the time may be up before the write has begun.
            hung = source.write(everything, everything, timeout_s=0.5)
            assert hung.error is not None
        target.thaw()
        late = source.results.get(timeout=60)
        assert late.error is not None and late.quiesced
        result = source.write(everything, everything)
        assert result.error is None
        assert target.ask("check", tuple(everything), result.checksums[0]) is None
        assert is_close(numbers(target.ask("blocks", everything)), sent, SPEC.k_dim)
