"""The whole protocol between two real processes over streams and NIXL, and deaths at its steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from baton.core.handoff import BlocksReady
from baton.core.settings import TransferSettings
from baton.transfer.nixl import NixlTransport
from baton.v1 import common_pb2
from fakes.nixl_process import BLOCK_BYTES, Child, child, worker_main
from fakes.transfer import FakeWorker, due_of, fill, make_arena, make_request
from fakes.until import until

# Shared memory by TCP semantics: recreating an agent ends every peer's writes.
SETTINGS = {"ucx_tls": "tcp,self"}
HANDOFF = b"h" * 16
NUM_TOKENS = 26
NUM_BLOCKS = 7


@pytest.fixture(autouse=True)
def _ucx_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UCX_TLS", "UCX_NET_DEVICES", "UCX_LOG_LEVEL", "NIXL_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextlib.asynccontextmanager
async def here(**settings: object) -> AsyncIterator[FakeWorker]:
    """This process as a worker."""
    chosen = TransferSettings(**(SETTINGS | settings))
    worker = FakeWorker(
        "here",
        settings=chosen,
        transport=NixlTransport("here", chosen),
        arena=make_arena(32, BLOCK_BYTES),
    )
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def ask(other: Child, *command: object) -> Any:
    return await asyncio.to_thread(other.ask, *command)


async def until_state(other: Child, name: str) -> dict[str, Any]:
    """The child's state, once it has something under this name."""
    for _ in range(3000):
        state = await ask(other, "state")
        if state[name]:
            return state
        await asyncio.sleep(0.01)
    raise AssertionError(f"the child has nothing {name}")


async def granted_to_child(worker: FakeWorker, other: Child) -> None:
    """A handoff from the child to this process, up to the grant."""
    ref = common_pb2.WorkerRef.FromString(await asyncio.to_thread(other.answer))
    request = make_request(NUM_TOKENS, seed=0)
    worker.handoffs.start_target(HANDOFF, ("t", 0), request, 1, ref)
    mine = worker.ref.SerializeToString()
    await ask(other, "start_source", HANDOFF, 0, NUM_TOKENS, mine)
    await until(lambda: ("t", 0) in worker.host.reserved)


async def landed(worker: FakeWorker, ids: list[int], contents: np.ndarray) -> None:
    await until(lambda: np.array_equal(worker.arena.view[ids], contents))


async def test_blocks_arrive_while_the_prompt_is_computed() -> None:
    async with here() as worker:
        with child(worker_main, "source", 7, SETTINGS) as source:
            await granted_to_child(worker, source)
            ids = list(worker.host.reserved["t", 0])
            contents = await ask(source, "blocks", list(range(NUM_BLOCKS)))
            await ask(source, "ready", 0, 0, 3, False)
            # Before the rest is computed, let alone committed.
            await landed(worker, ids[:3], contents[:3])
            assert not worker.host.adopted
            await ask(source, "ready", 0, 3, 4, True)
            await until(lambda: worker.host.adopted)
            assert worker.host.adopted["t", 0][0].tokens == (7,)
            assert np.array_equal(worker.arena.view[ids], contents)
            state = await until_state(source, "handed")
            assert state["released"] == [("s", 0)]


async def test_corrupted_block_is_never_adopted() -> None:
    async with here() as worker:
        with child(worker_main, "source", 7, SETTINGS) as source:
            await granted_to_child(worker, source)
            ids = list(worker.host.reserved["t", 0])
            contents = await ask(source, "blocks", list(range(NUM_BLOCKS)))
            await ask(source, "ready", 0, 0, NUM_BLOCKS, False)
            await landed(worker, ids, contents)
            # One bit of one block changes before the commit, as a stray write would do it.
            worker.arena.view[ids[4], 12345] ^= 1
            await ask(source, "ready", 0, NUM_BLOCKS, 0, True)
            await until(lambda: worker.host.failures)
            assert "checksum_mismatch" in worker.host.failures["t", 0].message
            assert not worker.host.adopted
            assert len(worker.host.free) == 32
            state = await until_state(source, "failures")
            assert "checksum_mismatch" in state["failures"]["s", 0]
            assert state["released"] == [("s", 0)]


async def test_blocks_of_a_killed_source_are_free_once_it_is_known_dead() -> None:
    async with here() as worker:
        with child(worker_main, "source", 7, SETTINGS) as source:
            await granted_to_child(worker, source)
            await ask(source, "ready", 0, 0, 3, False)
            source.freeze()
            await asyncio.sleep(0.1)
            # Frozen is not dead: it may go on writing.
            assert len(worker.host.free) == 32 - NUM_BLOCKS
            source.kill()
            await until(lambda: worker.host.failures)
            assert worker.host.failures["t", 0].retryable
            await until(lambda: len(worker.host.free) == 32)
            assert not worker.host.quarantined and not worker.host.adopted
            assert worker.handoffs.num_quarantined_blocks == 0


async def test_killed_target_ends_the_sources_handoff() -> None:
    async with here() as worker:
        with child(worker_main, "target", 9, SETTINGS) as target:
            ref = common_pb2.WorkerRef.FromString(await asyncio.to_thread(target.answer))
            mine = worker.ref.SerializeToString()
            await ask(target, "start_target", HANDOFF, 0, NUM_TOKENS, mine)
            request = make_request(NUM_TOKENS, seed=0)
            worker.handoffs.start_source(HANDOFF, ("s", 0), request, 1, ref)
            fill(worker.arena, range(32), seed=0)
            worker.handoffs.offer(due_of(("s", 0), request))
            await until(lambda: worker.host.grants)
            worker.handoffs.blocks_ready(BlocksReady(("s", 0), (0,), ((0, 1, 2),), False))
            target.kill()
            await until(lambda: worker.host.failures)
            assert worker.host.failures["s", 0].retryable
            await until(lambda: worker.host.released)
            assert len(worker.handoffs._entries.open) == 0


async def test_client_that_goes_away_frees_both_ends() -> None:
    async with here() as worker:
        with child(worker_main, "source", 7, SETTINGS) as source:
            await granted_to_child(worker, source)
            await ask(source, "ready", 0, 0, 3, False)
            worker.handoffs.cancel(("t", 0), "client gone")
            await until(lambda: len(worker.host.free) == 32)
            assert not worker.host.failures
            state = await until_state(source, "released")
            assert "client gone" in state["failures"]["s", 0]


async def test_quarantine_past_its_cap_recreates_the_agent() -> None:
    async with here(max_quarantined_share=0.1, quarantine_wait_s=0.2) as worker:
        with child(worker_main, "source", 7, SETTINGS) as source:
            await granted_to_child(worker, source)
            await ask(source, "ready", 0, 0, 3, False)
            before = worker.transport.agent_name
            source.freeze()
            worker.handoffs.cancel(("t", 0), "client gone")
            # It cannot say Quiesced and is not dead, so only a new agent can free the blocks.
            await until(lambda: worker.transport.agent_name != before)
            assert len(worker.host.free) == 32 and not worker.handoffs.must_restart
            source.thaw()
            # The thawed source learns of the new agent, and the next handoff goes through it.
            other = b"i" * 16
            ref = common_pb2.WorkerRef(worker_id="source", epoch=7)
            request = make_request(NUM_TOKENS, seed=1)
            worker.handoffs.start_target(other, ("t", 1), request, 1, ref)
            mine = worker.ref.SerializeToString()
            await ask(source, "start_source", other, 1, NUM_TOKENS, mine)
            await ask(source, "ready", 1, 0, NUM_BLOCKS, True)
            await until(lambda: worker.host.adopted or ("t", 1) in worker.host.failures)
            assert ("t", 1) in worker.host.adopted, worker.host.failures
