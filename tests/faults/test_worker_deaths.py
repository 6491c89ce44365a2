"""A worker may die at any step of a handoff: every request is answered, and no block is lost.

Real processes and real NIXL; the mock engine asserts that the KV it reads is the KV it should read,
and its tokens depend on nothing but the request.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fakes.deployment import Deployment, deployment, wait_for
from fakes.mortal_worker import EXIT_STATUS

FLAGS = ("--engine", "mock", "--mock-step-ms", "5", "--kv-blocks", "400")
# Chunked prefill, so that there is something between the first write and the commit. By caches,
# the same prompts would go to whoever had them before, and a new worker might never get one.
ENVIRONMENT = {"BATON_ENGINE__MAX_BATCH_TOKENS": "64", "BATON_ROUTER__POLICY": "round_robin"}
REQUESTS = 12

STEPS = [
    ("prefill", "send:offer"),
    ("prefill", "receive:grant"),
    ("prefill", "write"),
    ("prefill", "send:commit"),
    ("prefill", "receive:accepted"),
    ("decode", "receive:offer"),
    ("decode", "send:grant"),
    ("decode", "receive:commit"),
    ("decode", "send:accepted"),
    ("decode", "rows:5"),
]


def body(i: int) -> dict[str, Any]:
    return {
        "model": "baton-tiny",
        "prompt": [(7 * i + j) % 2000 + 10 for j in range(150 + 10 * i)],
        "max_tokens": 12,
        "seed": i,
        "ignore_eos": True,
        "return_token_ids": True,
    }


def ask(url: str, i: int) -> list[int]:
    answer = httpx.post(f"{url}/v1/completions", json=body(i), timeout=60)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def ask_all(url: str) -> list[list[int]]:
    with ThreadPoolExecutor(REQUESTS) as threads:
        return list(threads.map(lambda i: ask(url, i), range(REQUESTS)))


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    with deployment(*FLAGS, environment=ENVIRONMENT) as it:
        it.start_workers(prefill=1, decode=1)
        yield it


@pytest.fixture(scope="module")
def expected(running: Deployment) -> list[list[int]]:
    return ask_all(running.url)


@pytest.mark.parametrize(("role", "step"), STEPS, ids=[f"{r}-{s}" for r, s in STEPS])
def test_death_at_each_step_disturbs_nobody(
    running: Deployment, expected: list[list[int]], role: str, step: str
) -> None:
    victim = running.start_worker("victim", role, mortal=step)
    running.wait_ready(3)

    def survivors() -> dict[str, int]:
        return {w["id"]: w["load"]["free_blocks"] for w in running.workers() if w["id"] != "victim"}

    deadline = time.monotonic() + 30
    while victim.poll() is None:
        assert time.monotonic() < deadline, "the victim was never asked"
        assert ask_all(running.url) == expected
    assert victim.wait() == EXIT_STATUS, running.log("victim")
    running.processes.pop("victim")

    # What was reserved for, or pinned by, handoffs with the dead worker is free again.
    wait_for("free blocks", lambda: set(survivors().values()) == {400})
    successor = running.start_worker("victim", role)
    running.wait_ready(3)
    assert ask_all(running.url) == expected
    successor.terminate()
    assert successor.wait(timeout=20) == 0, running.log("victim")
    running.processes.pop("victim")
    wait_for("the departure", lambda: len(survivors()) == len(running.workers()))


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_frozen_worker_disturbs_nobody_for_long(
    running: Deployment, expected: list[list[int]], role: str
) -> None:
    frozen = running.start_worker("frozen", role)
    running.wait_ready(3)

    def state() -> str:
        return next((w["state"] for w in running.workers() if w["id"] == "frozen"), "gone")

    frozen.send_signal(signal.SIGSTOP)
    # Some of these may be placed on it before the gateway can know.
    assert ask_all(running.url) == expected
    wait_for("the gateway to notice", lambda: state() != "ready")
    frozen.send_signal(signal.SIGCONT)
    wait_for("the thawed worker", lambda: state() == "ready")
    assert ask_all(running.url) == expected
    wait_for(
        "free blocks",
        lambda: {w["load"]["free_blocks"] for w in running.workers()} == {400},
    )
    frozen.terminate()
    assert frozen.wait(timeout=20) == 0, running.log("frozen")
    running.processes.pop("frozen")
