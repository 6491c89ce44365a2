"""A worker's probes over its whole life, in processes of its own with a mock engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from baton.core.settings import StoreSettings
from baton.gateway.server import serve_store
from baton.v1 import common_pb2
from fakes.deployment import Deployment, deployment, wait_for
from fakes.free_port import free_port
from fakes.hub_server import COMMIT, FakeHub
from fakes.streams import Answer, ask

HEALTH = {"BATON_WORKER__HEALTH_PORT": "0", "BATON_ROUTER__DISAGGREGATION": "auto"}


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A gateway, and what a test's `param` adds to the environment of all processes."""
    with deployment("--engine", "mock", environment=HEALTH | getattr(request, "param", {})) as it:
        yield it


def address(running: Deployment, worker: str) -> str:
    """Where a worker that serves answers probes."""
    wait_for("the health server", lambda: "health at " in running.log(worker), 60)
    return running.log(worker).partition("health at ")[2].split()[0]


def probe(at: str, path: str) -> tuple[int, str]:
    try:
        answer = httpx.get(f"http://{at}{path}", timeout=10)
    except httpx.TransportError:
        return 0, ""
    return answer.status_code, answer.text


def reads(at: str, path: str, status: int) -> None:
    wait_for(f"{path} to answer {status}", lambda: probe(at, path)[0] == status, 60)


def metric(at: str, name: str) -> float:
    lines = probe(at, "/metrics")[1].splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"baton_worker_{name}"))


def generate(running: Deployment, num_tokens: int, prompt: int = 8) -> asyncio.Task[Answer]:
    body = {
        "model": "baton-tiny",
        "prompt": [5] * prompt,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return asyncio.create_task(ask(running.url, body))


async def test_a_worker_that_serves_tells_of_its_engine(running: Deployment) -> None:
    port = free_port()
    env = {"BATON_WORKER__PORT": str(port), "BATON_WORKER__REVISION": "r7"}
    running._environment |= env
    running.start_worker("w0", "any")
    running.wait_ready(1)
    at = address(running, "w0")
    assert [probe(at, p)[0] for p in ("/startupz", "/livez", "/readyz")] == [200, 200, 200]
    assert json.loads(probe(at, "/progress")[1])["stage"] == "ready"
    [worker] = running.workers()
    assert worker["address"] == f"127.0.0.1:{port}"

    answer = await generate(running, 50)
    assert len(answer.tokens[0]) == 50
    # The answer's last token is out before the loop counts the step that made it.
    wait_for("the steps", lambda: metric(at, "engine_steps_total") >= 50)
    assert metric(at, "generated_tokens_total") == 50
    assert metric(at, "prompt_tokens_total") >= 1
    assert metric(at, 'kv_blocks{state="free"}') > 0
    assert metric(at, "heartbeat_age_seconds") < 5
    assert 'revision="r7"' in probe(at, "/metrics")[1]


async def test_sigterm_makes_it_unready_at_once_and_lets_streams_end(running: Deployment) -> None:
    running.start_workers(any_=1)
    at = address(running, "any-0")
    # Five seconds for what is read of it meanwhile.
    stream = generate(running, 500)
    while metric(at, "running_sequences") < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    process = running.processes.pop("any-0")
    process.terminate()
    reads(at, "/readyz", 503)
    assert process.poll() is None, running.log("any-0")
    assert "leaving and takes no new requests" in probe(at, "/readyz")[1]
    assert [probe(at, p)[0] for p in ("/startupz", "/livez")] == [200, 200]
    assert metric(at, "draining") == 1
    assert running.workers()[0]["state"] == "draining"
    answer = await stream
    assert (answer.problem, len(answer.tokens[0])) == ("", 500)
    assert await asyncio.to_thread(process.wait, 30) == 0, running.log("any-0")


async def test_a_second_sigterm_ends_it_at_once(running: Deployment) -> None:
    running.start_workers(any_=1)
    at = address(running, "any-0")
    stream = generate(running, 5000)
    while metric(at, "running_sequences") < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    process = running.processes.pop("any-0")
    # As `timeout` does: to the process, and to its group.
    process.terminate()
    process.terminate()
    reads(at, "/readyz", 503)
    await asyncio.sleep(1.1)
    assert process.poll() is None, "two that came together were taken for a second thought"
    process.terminate()
    assert await asyncio.to_thread(process.wait, 10) == 128 + signal.SIGTERM
    stream.cancel()


@pytest.mark.parametrize("running", [{"BATON_WORKER__DRAIN_GRACE_S": "1"}], indirect=True)
async def test_a_drain_ends_with_its_grace(running: Deployment) -> None:
    running.start_workers(any_=1)
    at = address(running, "any-0")
    stream = generate(running, 5000)
    while metric(at, "running_sequences") < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    process = running.processes.pop("any-0")
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0
    stream.cancel()


@pytest.mark.parametrize(
    "running",
    [{"BATON_WORKER__STUCK_AFTER_S": "1", "BATON_ENGINE__MAX_BATCH_TOKENS": "16"}],
    indirect=True,
)
async def test_idle_is_alive_and_a_step_beyond_the_bound_is_stuck(running: Deployment) -> None:
    """Prompts here take half a second a token: eight seconds a step."""
    running.start_worker("w0", "any", "--mock-prefill-us-per-token", "500000")
    running.wait_ready(1)
    at = address(running, "w0")
    await asyncio.sleep(1.5)
    # Not at once where the machine holds its loop up.
    await asyncio.to_thread(reads, at, "/livez", 200)
    stream = generate(running, 2, prompt=16)
    await asyncio.to_thread(reads, at, "/livez", 503)
    assert "the engine's loop has stood still" in probe(at, "/livez")[1]
    assert probe(at, "/readyz")[0] == 200
    assert (await stream).is_done
    await asyncio.to_thread(reads, at, "/livez", 200)

    # A stuck one cannot drain: told to leave, it dies, and its requests are replayed.
    stream = generate(running, 2, prompt=60)
    await asyncio.to_thread(reads, at, "/livez", 503)
    process = running.processes.pop("w0")
    process.terminate()
    # Long before the prompt is done.
    assert await asyncio.to_thread(process.wait, 20) == 1
    assert "worker_given_up" in running.log("w0")
    stream.cancel()


async def test_a_bug_in_the_engine_ends_the_process(running: Deployment) -> None:
    running.start_worker("w0", "any", mortal="bug:5")
    running.wait_ready(1)
    stream = generate(running, 50)
    process = running.processes.pop("w0")
    assert await asyncio.to_thread(process.wait, 30) == 1
    assert "a bug of the engine" in running.log("w0")
    stream.cancel()


async def test_a_store_that_goes_away_later_changes_nothing(running: Deployment) -> None:
    running.start_workers(any_=1)
    at = address(running, "any-0")
    running.kill("gateway", signal.SIGKILL)
    wait_for("the outage", lambda: "store" in running.log("any-0").partition("health at")[2], 30)
    assert [probe(at, p)[0] for p in ("/startupz", "/livez", "/readyz")] == [200, 200, 200]


class Alone:
    """A worker without a deployment: its store does not answer, or not yet."""

    def __init__(self, folder: Path, *flags: str, **env: str) -> None:
        self.at = f"127.0.0.1:{free_port()}"
        self.log = folder / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "baton.cli.main", "worker", "--engine", "mock"),
                    *("--token-file", str(folder / "token"), *flags),
                ],
                env={
                    **os.environ,
                    "BATON_WORKER__HEALTH_PORT": self.at.rpartition(":")[2],
                    "BATON_WORKER__WORKER_ID": "w0",
                    **env,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()

    def progress(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(probe(self.at, "/progress")[1])
        return document


async def test_without_a_store_it_tries_on_and_says_so(tmp_path: Path) -> None:
    port = free_port()
    url = f"grpc://127.0.0.1:{port}"
    env = {"BATON_WORKER__REVISION": "r7", "BATON_WORKER__ZONE": "z", "BATON_WORKER__FABRIC": "f"}
    with Alone(tmp_path, "--store", url, **env) as it:
        await asyncio.to_thread(
            wait_for,
            "registering",
            lambda: f"the store at {url} has not taken it" in probe(it.at, "/startupz")[1],
            60,
        )
        assert it.progress()["stage"] == "registering"
        assert [probe(it.at, p)[0] for p in ("/startupz", "/livez", "/readyz")] == [503, 200, 503]

        token = (tmp_path / "token").read_text().strip()
        async with serve_store(StoreSettings(port=port), token) as (store, _):
            await asyncio.to_thread(reads, it.at, "/startupz", 200)
            assert probe(it.at, "/readyz")[0] == 200
            entry = await store.get("workers/w0")
            assert entry is not None
            lease = common_pb2.WorkerLease.FromString(entry)
            assert (lease.revision, lease.zone, lease.fabric) == ("r7", "z", "f")
        it.process.terminate()
        assert await asyncio.to_thread(it.process.wait, 30) == 0


def test_a_download_is_told_and_a_stop_leaves_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": 32, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones((3, 2**20), dtype=np.float32)}, folder / "model.safetensors")
    cache = tmp_path / "cache"
    with FakeHub(folder) as hub:
        hub.stalls["model.safetensors"] = 11_000_000
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        with Alone(tmp_path, "--model", "org/tiny", "--store", "grpc://127.0.0.1:1", **env) as it:
            assert hub.stalled.wait(60)
            wait_for("10 MB", lambda: it.progress()["bytes"] > 10_000_000)
            now = it.progress()
            assert now["stage"] == "downloading"
            assert now["bytes"] < now["total_bytes"] == hub.num_bytes
            status, text = probe(it.at, "/startupz")
            assert (status, "looks for the model: 1" in text) == (503, True)
            assert probe(it.at, "/livez")[0] == 200
            it.process.terminate()
            assert it.process.wait(10) == 0
            assert "told to stop while it started" in it.log.read_text()
        assert list(cache.glob("hub/*/blobs/*.incomplete")) == []
        assert [p.name for p in cache.glob("hub/*/snapshots/*")] == [COMMIT]


def test_a_taken_health_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with Alone(tmp_path, "--store", "grpc://127.0.0.1:1", BATON_WORKER__HEALTH_PORT=port) as it:
            assert it.process.wait(60) == 2
            assert f"cannot listen on 127.0.0.1:{port}" in it.log.read_text()
