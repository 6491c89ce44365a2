"""A gateway of several processes on the same two ports."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import grpc
import httpx

from baton.v1 import inference_pb2, inference_pb2_grpc
from fakes.deployment import Deployment, deployment, wait_for

PROCESSES = 3
FLAGS = ("--engine", "mock", "--mock-step-ms", "2")
ENVIRONMENT = {"BATON_GATEWAY__PROCESSES": str(PROCESSES)}
BODY = {"model": "baton-tiny", "prompt": "one", "max_tokens": 4, "ignore_eos": True}


def served(running: Deployment) -> dict[str, float]:
    """Process to the requests that it has finished."""
    page = httpx.get(f"{running.url}/metrics", timeout=10).text
    pattern = r'^baton_requests_total\{.*code="ok".*process="(\d+)".*\} (\S+)'
    found = re.findall(pattern, page, re.MULTILINE)
    counts = dict.fromkeys(re.findall(r'^baton_build_info\{.*process="(\d+)"', page, re.M), 0.0)
    for process, count in found:
        counts[process] = counts.get(process, 0.0) + float(count)
    return counts


def children(pid: int) -> list[int]:
    """The further processes of a gateway."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def complete(running: Deployment) -> int:
    """One request on a connection of its own."""
    return httpx.post(f"{running.url}/v1/completions", json=BODY, timeout=30).status_code


def ready(running: Deployment) -> bool:
    """Every process has its workers: ask often enough to meet each."""
    answers = [httpx.get(f"{running.url}/ready", timeout=5).json() for _ in range(30)]
    return all(not answer.get("shortages", True) for answer in answers)


def test_processes_share_the_ports_and_one_that_dies_is_replaced() -> None:
    with deployment(*FLAGS, environment=ENVIRONMENT) as running:
        running.start_workers(prefill=1, decode=1)
        wait_for("three gateways with workers", lambda: ready(running))
        assert set(served(running)) == {"0", "1", "2"}

        assert {complete(running) for _ in range(60)} == {200}
        counts = served(running)
        assert sum(counts.values()) == 60
        # Any of them knows the times of all.
        slo = httpx.get(f"{running.url}/v1/baton/status", timeout=10).json()["slo"]
        assert (slo["processes"], slo["requests"], slo["errors"]) == (3, 60, 0)
        assert 0 < slo["ttft_s"] < 30 and 0 < slo["tpot_s"] < 30
        # Whoever is free accepts: nobody is left out for ever.
        for _ in range(500):
            if sum(count > 0 for count in served(running).values()) >= 2:
                break
            assert complete(running) == 200
        else:
            raise AssertionError("one process has served all")

        with grpc.insecure_channel(running.grpc) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = inference_pb2.GenerateRequest(model="baton-tiny", text="one")
            request.params.max_tokens = 4
            assert list(stub.Generate(request, timeout=30))

        old = children(running.gateway.pid)
        assert len(old) == PROCESSES - 1
        os.kill(old[0], signal.SIGKILL)
        wait_for("a replacement", lambda: len(set(children(running.gateway.pid)) - set(old)) == 1)
        wait_for("three gateways again", lambda: len(served(running)) == PROCESSES)
        wait_for("their workers", lambda: ready(running))
        assert {complete(running) for _ in range(20)} == {200}

        left = children(running.gateway.pid)
        running.gateway.send_signal(signal.SIGINT)
        assert running.gateway.wait(20) == 0
        assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
