"""Blocks of a prompt from a peer's cache: when it works, and that nothing waits when it does not.

Real engine loops and handoffs over gRPC; the transport is in this process and can be made to fail.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from baton.core.request import Request
from baton.v1 import common_pb2, session_pb2
from baton.worker import fetching
from fakes.engines import prompt, request
from fakes.loop_worker import LoopWorker, loop_workers

BLOCK = 4


def wanted(length: int = 41, seed: int = 1, *, salt: str = "a", **fields: Any) -> Request:
    made = request(prompt(length, seed), max_tokens=6, ignore_eos=True)
    return replace(made, tenant_salt=salt, deadline=time.monotonic() + 60, **fields)


async def computed(owner: LoopWorker, number: int = 1, **fields: Any) -> list[int]:
    """What the worker that has it all answers."""
    return await owner.generated(owner.submit(number, wanted(**fields)))


def fetched(worker: LoopWorker) -> int:
    return worker.engine.load().fetched_blocks


@pytest.mark.parametrize("block_sizes", [(4,), (4, 8), (4, 4)])
async def test_fetched_prefix_is_a_hit_in_every_group(block_sizes: tuple[int, ...]) -> None:
    async with loop_workers(block_sizes=block_sizes) as (owner, other):
        expected = await computed(owner)
        key = other.submit(1, wanted(), fetch_from=owner.ref)
        assert await other.generated(key) == expected
        assert other.cached[key] == 40
        assert await other.ask(lambda: fetched(other)) == sum(40 // size for size in block_sizes)
        for worker in (owner, other):
            await worker.until(worker.is_whole)


async def test_only_what_is_missing_is_fetched_and_only_what_is_there() -> None:
    async with loop_workers() as (owner, other):
        await computed(owner, length=41)
        await computed(other, length=17)
        longer = wanted(length=60)
        key = other.submit(2, longer, fetch_from=owner.ref)
        await other.generated(key)
        # The prompts are not prefixes of each other unless they are as long.
        assert other.cached[key] == 0 and fetched(other) == 0
        shared = replace(longer, prompt=(*wanted().prompt, 7, 8, 9))
        short = replace(shared, prompt=shared.prompt[:18])
        await other.generated(other.submit(3, short))
        key = other.submit(4, shared, fetch_from=owner.ref)
        await other.generated(key)
        assert (other.cached[key], fetched(other)) == (40, 10 - 4)
        await other.until(other.is_whole)


async def test_nothing_is_fetched_across_salts() -> None:
    async with loop_workers() as (owner, other):
        expected = await computed(owner)
        key = other.submit(1, wanted(salt="b"), fetch_from=owner.ref)
        assert await other.generated(key) == expected
        assert (other.cached[key], fetched(other)) == (0, 0)


async def test_peer_that_has_nothing_costs_no_wait() -> None:
    async with loop_workers(fetch_wait_s=30) as (owner, other):
        expected = await computed(owner, number=2)
        assert await owner.generated(owner.submit(3, wanted(), fetch_from=other.ref)) == expected
        assert await other.generated(other.submit(1, wanted(seed=2), fetch_from=owner.ref))
        for worker in (owner, other):
            await worker.until(worker.is_whole)


@pytest.mark.parametrize("fault", ["fail", "corrupt", "drop", "hold"])
async def test_prompt_is_computed_when_its_blocks_do_not_come(fault: str) -> None:
    """A failed write is tried again, so both tries fail."""
    async with loop_workers(fetch_wait_s=0.5, write_wait_s=0.3) as (owner, other):
        expected = await computed(owner)
        setattr(owner.transport.faults, fault, 2)
        key = other.submit(1, wanted(), fetch_from=owner.ref)
        assert await other.generated(key) == expected
        assert (other.cached[key], fetched(other)) == (0, 0)
        setattr(owner.transport.faults, fault, 0)
        owner.transport.release_held()
        if fault != "drop":
            # The source cannot tell that a dropped write will never land.
            for worker in (owner, other):
                await worker.until(worker.is_whole)


async def test_unreachable_peer_costs_no_more_than_the_wait() -> None:
    async with loop_workers(fetch_wait_s=0.5) as (owner, other):
        expected = await computed(owner)
        nobody = common_pb2.WorkerRef(worker_id="nobody", epoch=9, address="127.0.0.1:1")
        key = other.submit(1, wanted(), fetch_from=nobody)
        assert await other.generated(key) == expected
        # One of another life than the peer's.
        stale = common_pb2.WorkerRef(
            worker_id=owner.name, epoch=owner.epoch + 1000, address=owner.ref.address
        )
        key = other.submit(2, wanted(seed=3), fetch_from=stale)
        await other.generated(key)
        assert fetched(other) == 0
        await other.until(other.is_whole)


async def test_cancelled_while_it_waits_is_never_run() -> None:
    async with loop_workers(fetch_wait_s=1.0) as (owner, other):
        await computed(owner)
        owner.transport.faults.hold = 1
        key = other.submit(1, wanted(), fetch_from=owner.ref)
        await owner.until(lambda: len(owner.handoffs._entries.open) == 1)
        other.loop.post(lambda: other.loop.cancel(key))
        owner.transport.release_held()
        await other.until(lambda: len(other.handoffs._entries.open) == 0)
        await other.ask(lambda: None)
        assert key not in other.tokens and key not in other.cached
        owner.transport.release_held()
        for worker in (owner, other):
            await worker.until(worker.is_whole)


async def test_prompt_that_is_to_be_handed_over_is_fetched_first() -> None:
    async with loop_workers(num_workers=3) as (owner, source, target):
        expected = await computed(owner)
        role = session_pb2.HandoffRole
        handoff_id = b"h" * 16
        made = wanted()
        target_key = target.submit(
            1,
            made,
            handoff=role(side=role.SIDE_TARGET, handoff_id=handoff_id, peer=source.ref),
        )
        source_key = source.submit(
            1,
            made,
            handoff=role(side=role.SIDE_SOURCE, handoff_id=handoff_id, peer=target.ref),
            fetch_from=owner.ref,
        )
        rest = await target.generated(target_key)
        assert source.tokens[source_key] + rest == expected
        assert source.cached[source_key] == 40
        for worker in (owner, source, target):
            await worker.until(worker.is_whole)


async def test_hint_fetches_and_pins() -> None:
    async with loop_workers() as (owner, other):
        expected = await computed(owner)
        made = wanted()
        other.prefetch(
            session_pb2.Prefetch(
                tenant_salt="a",
                prompt=[session_pb2.PromptSegment(token_ids=session_pb2.TokenIds(ids=made.prompt))],
                cache_ttl_ms=60_000,
                fetch_from=owner.ref,
            )
        )
        await other.until(lambda: other.engine.load().pinned_blocks == 10)
        assert fetched(other) == 10
        key = other.submit(1, made)
        assert await other.generated(key) == expected and other.cached[key] == 40


async def test_full_worker_neither_lends_nor_fetches() -> None:
    async with loop_workers(kv_blocks=20) as (owner, other):
        await computed(owner)
        # A quarter of its pool is all that a peer gets.
        key = other.submit(1, wanted(), fetch_from=owner.ref)
        await other.generated(key)
        assert fetched(other) == 5 and other.cached[key] == 20


async def test_hints_beyond_the_bound_fetch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_HINTS", 0)
    async with loop_workers() as (owner, other):
        expected = await computed(owner)
        made = wanted()
        ids = session_pb2.TokenIds(ids=made.prompt)
        prompt = [session_pb2.PromptSegment(token_ids=ids)]
        other.prefetch(session_pb2.Prefetch(tenant_salt="a", prompt=prompt, fetch_from=owner.ref))
        key = other.submit(1, made)
        assert await other.generated(key) == expected
        assert fetched(other) == other.cached[key] == 0
