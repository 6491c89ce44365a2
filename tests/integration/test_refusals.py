"""What is wrong is named, with what to do about it, and nothing else is disturbed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from baton.core import model_folder
from baton.v1 import session_pb2, session_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from fakes.deployment import Deployment, deployment

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


def test_a_stranger_at_a_workers_port_is_turned_away(running: Deployment) -> None:
    for worker in running.workers():
        with grpc.insecure_channel(worker["address"]) as channel:
            sessions = session_pb2_grpc.SessionServiceStub(channel)
            opening = session_pb2.SessionRequest(open=session_pb2.Open(session_id="stranger"))
            with pytest.raises(grpc.RpcError) as refused:
                list(sessions.Session(iter([opening])))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "token" in refused.value.details()
            transfers = transfer_pb2_grpc.TransferServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                list(transfers.Handoff(iter([transfer_pb2.HandoffRequest()])))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert answers(running)


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
