"""Who holds a worker id: alive, gone, or silent."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton.store.lease import Holder
from baton.v1 import common_pb2
from baton.worker import rival
from fakes.worker import TOKEN, FakeWorker
from suites.embedded_backend import EmbeddedBackend

EPOCH = 7


def lease(address: str, **fields: Any) -> common_pb2.WorkerLease:
    usual: dict[str, Any] = {"protocol_min": 1, "protocol_max": 1, "node": socket.gethostname()}
    worker = common_pb2.WorkerRef(worker_id="w", epoch=EPOCH, address=address)
    return common_pb2.WorkerLease(worker=worker, **{**usual, **fields})


@asynccontextmanager
async def serving() -> AsyncIterator[FakeWorker]:
    worker = await FakeWorker("w").start()
    worker.lease.node = socket.gethostname()
    try:
        yield worker
    finally:
        await worker.stop()


async def look(held: common_pb2.WorkerLease, own_epoch: int = 1, token: str = TOKEN) -> Holder:
    return await rival.look(held.SerializeToString(), own_epoch, token)


async def test_a_worker_that_answers_lives_and_keeps_nothing_of_the_question() -> None:
    async with serving() as worker:
        assert await look(worker.lease) is Holder.LIVES
        assert worker.sessions.num_sessions == 0


async def test_a_refused_connection_means_gone() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        assert await look(lease(f"127.0.0.1:{reserved.getsockname()[1]}")) is Holder.GONE


async def test_another_worker_at_the_same_port_means_gone() -> None:
    async with serving() as worker:
        assert await look(lease(worker.lease.worker.address)) is Holder.GONE


async def test_ones_own_lease_may_be_replaced() -> None:
    async with serving() as worker:
        own_epoch = worker.lease.worker.epoch
        assert await look(worker.lease, own_epoch=own_epoch) is Holder.GONE


async def test_no_lease_at_all_may_be_replaced() -> None:
    assert await rival.look(b"\xff\xff", 1, TOKEN) is Holder.GONE


async def test_a_worker_that_accepts_and_never_answers_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rival, "ASK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        assert await look(lease(f"127.0.0.1:{frozen.getsockname()[1]}")) is Holder.SILENT


async def test_a_worker_with_another_token_is_silent() -> None:
    async with serving() as worker:
        assert await look(worker.lease, token="other") is Holder.SILENT


async def test_the_loopback_of_another_node_says_nothing() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        there = lease(f"127.0.0.1:{reserved.getsockname()[1]}", node="elsewhere")
        assert await look(there) is Holder.SILENT


async def test_an_id_is_free_unless_its_holder_lives() -> None:
    backend = EmbeddedBackend(token=TOKEN)
    await backend.start()
    store = backend.open()
    await rival.check_free(backend.url, TOKEN, "p", "w")
    async with serving() as worker:
        await store.put(worker.lease_key, worker.lease.SerializeToString())
        with pytest.raises(ConfigError, match="--worker-id") as caught:
            await rival.check_free(backend.url, TOKEN, "p", "w")
        held = worker.lease
        for part in (held.worker.address, f"process {held.pid}", held.node):
            assert part in caught.value.message
        assert f"{held.worker.epoch:016x}" in caught.value.message
        await rival.check_free(backend.url, TOKEN, "p", "another")
    await rival.check_free(backend.url, TOKEN, "p", "w")
    await backend.close()
    await rival.check_free(backend.url, TOKEN, "p", "w")
