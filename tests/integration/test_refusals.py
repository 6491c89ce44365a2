"""What is wrong is named, with what to do about it, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from baton.core import model_folder
from baton.telemetry.addresses import split_address
from baton.v1 import (
    inference_pb2,
    inference_pb2_grpc,
)
from baton.v1.stream_pb2 import StreamEnd, StreamOpen
from baton.wire.streams import methods
from baton.wire.streams.framing import PREFACE, Deframer, Kind, frame
from baton.wire.streams.status import Code, StreamError
from fakes.deployment import Deployment, deployment, wait_for

METHODS = [
    method.name for method in (methods.SESSION, methods.KV_EVENTS, methods.HANDOFF, methods.DRAIN)
]
MOCK = ("--engine", "mock", "--mock-step-ms", "1")


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    with deployment(*MOCK) as it:
        it.start_workers(prefill=1, decode=1)
        yield it


def run_worker(running: Deployment, *flags: str) -> subprocess.CompletedProcess[str]:
    """A worker that is expected to give up at its start."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "baton.cli.main", "worker", "--store", running.store),
            *("--token-file", str(running.token_file), *flags),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )


def answers(running: Deployment) -> bool:
    body = {"model": "baton-tiny", "prompt": "Hello", "max_tokens": 4, "ignore_eos": True}
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=30)
    return answer.status_code == 200


async def call(address: str, token: str, method: str, *contents: bytes) -> StreamError:
    """A call made by hand; how it ends."""
    reader, writer = await asyncio.open_connection(*split_address(address))
    opening = StreamOpen(method=method, token=token).SerializeToString()
    writer.write(PREFACE + frame(Kind.OPEN, opening))
    writer.writelines(frame(Kind.MESSAGE, content) for content in contents)
    deframer = Deframer()
    try:
        while data := await reader.read(65_536):
            for kind, content in deframer.feed(data):
                if kind == Kind.END:
                    end = StreamEnd.FromString(content)
                    return StreamError(Code(end.code), end.details)
        raise AssertionError("closed without a word")
    finally:
        writer.close()


@pytest.mark.parametrize("token", ["", "not-this-one"])
def test_a_stranger_at_a_workers_port_is_turned_away(running: Deployment, token: str) -> None:
    for worker in running.workers():
        for method in METHODS:
            refused = asyncio.run(call(worker["address"], token, method, b""))
            assert refused.code is Code.UNAUTHENTICATED
            assert "--token-file" in refused.details
    assert answers(running)


@pytest.mark.parametrize("method", METHODS)
def test_garbage_at_a_workers_port_ends_that_call_only(running: Deployment, method: str) -> None:
    token = running.token_file.read_text().strip()
    for worker in running.workers():
        refused = asyncio.run(call(worker["address"], token, method, b"\xff\xff\xff\xff"))
        assert refused.code is Code.INVALID_ARGUMENT
        assert method in refused.details
    assert all(worker["state"] == "ready" for worker in running.workers())
    assert not any("Traceback" in running.log(name) for name in running.processes)
    assert answers(running)


def test_http_at_a_workers_port_is_sent_to_the_gateway(running: Deployment) -> None:
    for worker in running.workers():
        answer = httpx.get(f"http://{worker['address']}/v1/models")
        assert answer.status_code == 400
        assert "gateway" in answer.text
    assert answers(running)


def test_without_a_decode_worker_the_deadlines_error_says_so() -> None:
    with deployment(*MOCK, environment={"BATON_GATEWAY__REQUEST_TIMEOUT_S": "2"}) as it:
        it.start_workers(prefill=1, decode=1)
        it.processes["decode-0"].terminate()
        it.processes.pop("decode-0").wait(timeout=30)
        body = {"model": "baton-tiny", "prompt": "Hello", "max_tokens": 4}
        answer = httpx.post(f"{it.url}/v1/completions", json=body, timeout=30)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (504, "deadline_exceeded")
        assert "no decode worker for model 'baton-tiny' is alive" in error["message"]
        with grpc.insecure_channel(it.grpc) as channel:
            call = inference_pb2_grpc.InferenceServiceStub(channel).Generate
            request = inference_pb2.GenerateRequest(model="baton-tiny", text="Hello")
            # With our deadline, and with the caller's.
            for timeout_s in (None, 1.0):
                with pytest.raises(grpc.RpcError) as refused:
                    list(call(request, timeout=timeout_s))
                assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert "no decode worker" in refused.value.details()
        shortages = httpx.get(f"{it.url}/ready").json()["shortages"]
        assert "no decode worker" in shortages["baton-tiny"]


def test_a_taken_worker_id_is_refused_at_the_start(running: Deployment) -> None:
    [holder] = [worker for worker in running.workers() if worker["id"] == "decode-0"]
    done = run_worker(running, "--engine", "mock", "--role", "decode", "--worker-id", "decode-0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("baton: worker id 'decode-0' is taken")
    for part in (holder["address"], str(holder["pid"]), holder["node"], holder["epoch"]):
        assert part in done.stderr
    assert "another --worker-id" in done.stderr
    assert "Traceback" not in done.stderr
    [still] = [worker for worker in running.workers() if worker["id"] == "decode-0"]
    assert (still["epoch"], still["state"]) == (holder["epoch"], "ready")
    assert answers(running)


def test_of_two_workers_with_one_id_that_start_at_once_one_serves() -> None:
    with deployment(*MOCK) as it:
        names = ("a", "b")
        for name in names:
            it.start_worker(name, "any", "--worker-id", "same")
        wait_for("a refusal", lambda: any(it.processes[n].poll() is not None for n in names), 60)
        [refused] = [name for name in names if it.processes[name].poll() is not None]
        assert it.processes.pop(refused).returncode == 2
        assert "worker id 'same' is taken" in it.log(refused)
        it.wait_ready(1)
        assert answers(it)


def test_a_worker_that_wakes_up_to_a_successor_leaves() -> None:
    quick = {"BATON_WORKER__LEASE_TTL_S": "0.5", "BATON_WORKER__LEASE_RENEW_S": "0.1"}
    with deployment(*MOCK, environment=quick) as it:
        it.start_worker("old", "any", "--worker-id", "same")
        it.wait_ready(1)
        it.kill("old", signal.SIGSTOP)
        new = it.start_worker("new", "any", "--worker-id", "same")
        wait_for("the successor", lambda: "serves at" in it.log("new"), 60)
        it.kill("old", signal.SIGCONT)
        assert it.processes.pop("old").wait(timeout=60) == 1
        assert "worker_id_taken" in it.log("old")
        it.wait_ready(1)
        assert [worker["pid"] for worker in it.workers()] == [new.pid]
        assert answers(it)


def test_workers_that_cannot_exchange_kv_are_not_paired(running: Deployment) -> None:
    odd = running.start_worker("odd", "prefill", "--block-size", "32")
    running.wait_ready(3)
    [shown] = [worker for worker in running.workers() if worker["id"] == "odd"]
    assert "--block-size" in shown["reason"]
    assert all(answers(running) for _ in range(8))
    odd.terminate()
    assert odd.wait(timeout=20) == 0
    running.processes.pop("odd")


def test_a_kv_pool_that_does_not_fit_is_refused(running: Deployment) -> None:
    done = run_worker(running, "--engine", "torch", "--kv-memory", "5000GiB")
    assert done.returncode == 2, done.stderr
    assert "--kv-memory" in done.stderr or "kv_memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert answers(running)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("truncated", "model.safetensors"),
        ("pickle", "safetensors"),
        ("architecture", "served are Llama"),
    ],
)
def test_a_bad_model_folder_is_refused(
    running: Deployment, tmp_path: Path, damage: str, word: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder.resolve("baton-tiny"), folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    else:
        config = folder / "config.json"
        config.write_text(config.read_text().replace("LlamaForCausalLM", "FooForCausalLM"))
    done = run_worker(running, "--engine", "torch", "--model", str(folder))
    assert done.returncode == 2, done.stderr
    assert word.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_wrong_token_is_named(running: Deployment, tmp_path: Path) -> None:
    other = tmp_path / "token"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "baton.cli.main", "gateway", "--store", running.store),
            *("--port", "0", "--grpc-port", "0", "--token-file", str(other)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["grpc://nowhere", "http://127.0.0.1:1", "redis:/x"])
def test_a_wrong_store_url_is_refused(tmp_path: Path, url: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "baton.cli.main", "gateway", "--store", url),
            *("--port", "0", "--grpc-port", "0", "--token-file", str(tmp_path / "token")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "store" in done.stderr
    assert "Traceback" not in done.stderr
