"""`baton drain` and `baton undrain` against a real store and a worker's real port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from baton.cli.main import app
from baton.core.settings import WorkerSettings
from baton.store.connect import open_store
from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.v1 import common_pb2, session_pb2, worker_pb2
from baton.wire.streams import methods
from baton.wire.streams.server import StreamServer
from baton.wire.streams.status import Code, StreamError
from baton.worker.sessions import Sessions

TOKEN = "drain-test-token"
STEP_S = 0.02


class Steered:
    """A worker with some submissions, of which one ends at every step while it drains."""

    def __init__(self) -> None:
        self.asked: list[worker_pb2.DrainRequest] = []
        self.num_running = 5
        self.draining = False
        self.is_stuck = False
        self.leaves_at = -1
        self.server = StreamServer("127.0.0.1", 0, TOKEN)
        worker = common_pb2.WorkerRef(worker_id="decode-0", epoch=7, address=self.server.address)
        self.lease = common_pb2.WorkerLease(worker=worker, protocol_min=1, protocol_max=1)
        self.sessions = Sessions(
            worker,
            lambda: self.lease,
            lambda key, submit: None,
            lambda key: None,
            lambda key, attempt, migrate: None,
            lambda prefetch: None,
            WorkerSettings(),
        )
        self.server.add(methods.SESSION, self.sessions.serve)
        self.server.add_single(methods.DRAIN, self._drain)
        self.server.add_single(methods.UNDRAIN, self._undrain)

    def _drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        self.asked.append(request)
        self.draining = True
        return worker_pb2.DrainResponse(num_running=self.num_running)

    def _undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        if self.is_stuck:
            raise StreamError(Code.FAILED_PRECONDITION, "decode-0 is about to stop")
        self.draining = False
        return worker_pb2.UndrainResponse()

    async def run(self, store: Any) -> None:
        number = 0
        while True:
            number += 1
            load = session_pb2.Load(
                sequence_number=number, num_running=self.num_running, draining=self.draining
            )
            self.sessions.publish([], [], load)
            if self.draining and self.num_running and not self.is_stuck:
                self.num_running -= 1
            if self.num_running == self.leaves_at:
                await store.delete("workers/decode-0")
                await self.server.stop(0.1)
                return
            await asyncio.sleep(STEP_S)


class Place:
    """A store and a worker on a thread of their own."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN)
        self.token_file.chmod(0o600)
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),))
        self._thread.start()
        self._up.wait()

    async def _main(self) -> None:
        server = rpc.server(TOKEN)
        service = EmbeddedStoreServer()
        service.add_to_server(server)
        self.url = f"grpc://127.0.0.1:{rpc.listen(server, '127.0.0.1', 0)}"
        await server.start()
        self.worker = Steered()
        await self.worker.server.start()
        store = open_store(self.url, TOKEN, "baton")
        await store.put("workers/decode-0", self.worker.lease.SerializeToString())
        self._stop = asyncio.Event()
        steps = asyncio.create_task(self.worker.run(store))
        self._up.set()
        await self._stop.wait()
        steps.cancel()
        self.worker.sessions.close()
        await self.worker.server.stop(0)
        await store.close()
        service.close()
        await server.stop(None)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def baton(self, *words: str, store: str | None = None) -> Result:
        place = ["--store", store or self.url, "--token-file", str(self.token_file)]
        return CliRunner().invoke(app, [*words, *place])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_drain_waits_until_nothing_is_left(place: Place) -> None:
    result = place.baton("drain", "decode-0", "--reason", "kernel update")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "decode-0 drains: 5 requests there"
    assert result.stdout.splitlines()[-1] == "decode-0 is empty"
    assert place.worker.num_running == 0
    assert {ask.reason for ask in place.worker.asked} == {"kernel update"}
    assert {ask.within_ms for ask in place.worker.asked} == {0}


def test_drain_ends_waiting_when_its_time_is_over(place: Place) -> None:
    place.worker.is_stuck = True
    result = place.baton("drain", "decode-0", "--within", "0.3")
    assert result.exit_code == 3
    assert "decode-0 is not empty after 0.3 s and goes on draining" in result.stderr
    assert place.worker.asked[0].within_ms == 300
    assert place.worker.draining


def test_worker_that_leaves_is_drained(place: Place) -> None:
    place.worker.leaves_at = 2
    result = place.baton("drain", "decode-0")
    assert result.exit_code == 0, result.output
    assert "decode-0 has left" in result.stdout


def test_waiting_ends_when_somebody_else_undrains(place: Place) -> None:
    place.worker.is_stuck = True

    def undrain() -> None:
        while not place.worker.draining:
            pass
        threading.Event().wait(0.3)
        place.worker.draining = False

    other = threading.Thread(target=undrain)
    other.start()
    result = place.baton("drain", "decode-0")
    other.join()
    assert result.exit_code == 1
    assert "decode-0 was told to take work again" in result.stderr
    assert len(place.worker.asked) == 1, "watching must not drain it anew"


def test_undrain(place: Place) -> None:
    place.worker.draining = place.worker.is_stuck = True
    threading.Event().wait(3 * STEP_S)
    refused = place.baton("undrain", "decode-0")
    assert refused.exit_code == 1
    assert "decode-0 is about to stop" in refused.stderr
    place.worker.is_stuck = False
    result = place.baton("undrain", "decode-0")
    assert (result.exit_code, result.stdout) == (0, "decode-0 takes work again\n")
    assert not place.worker.draining


def test_undrain_of_a_worker_that_does_not_drain(place: Place) -> None:
    threading.Event().wait(3 * STEP_S)
    result = place.baton("undrain", "decode-0")
    assert result.exit_code == 1
    assert "decode-0 is not draining" in result.stderr


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_unknown_worker(place: Place, command: str) -> None:
    result = place.baton(command, "decode-1")
    assert result.exit_code == 1
    assert "no worker 'decode-1' in the store; there is: decode-0" in result.stderr


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_store_that_is_down_is_named(place: Place, command: str) -> None:
    result = place.baton(command, "decode-0", store="grpc://127.0.0.1:1")
    assert result.exit_code == 1
    assert "grpc://127.0.0.1:1" in result.stderr


def test_store_must_be_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["drain", "decode-0", "--token-file", str(tmp_path / "t")])
    assert result.exit_code == 2
    assert "--store is missing" in result.stderr


def test_wrong_token(place: Place) -> None:
    place.token_file.write_text("another-token")
    result = place.baton("drain", "decode-0")
    assert result.exit_code == 1
    assert "token" in result.stderr
