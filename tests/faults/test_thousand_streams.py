"""1,000 streams at once through one gateway process, with mock workers, leave nothing behind."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import httpx

from fakes.deployment import Deployment, deployment, wait_for

sys.path.insert(0, str(Path(__file__).parents[2] / "loadtests"))
from client import Outcome, stream

STREAMS = 1000
TOKENS = 15
FLAGS = ("--engine", "mock", "--mock-step-ms", "200")
ENVIRONMENT = {"BATON_ENGINE__MAX_SEQUENCES": "600"}


def num_files(running: Deployment) -> int:
    return len(list(Path(f"/proc/{running.gateway.pid}/fd").iterdir()))


def gauge(running: Deployment, name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def run_streams(url: str, count: int) -> Outcome:
    outcome = Outcome()
    body = {
        "model": "baton-tiny",
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    await asyncio.gather(
        *(stream(url, "/v1/chat/completions", body, outcome) for _ in range(count))
    )
    return outcome


def test_thousand_streams_leave_nothing_behind() -> None:
    with deployment(*FLAGS, environment=ENVIRONMENT) as running:
        running.start_workers(prefill=1, decode=2)
        # Lazily opened files and tasks come with the first requests.
        asyncio.run(run_streams(running.url, 4))
        wait_for("an idle gateway", lambda: gauge(running, "baton_inflight_requests") == 0)
        httpx.get(f"{running.url}/metrics")
        time.sleep(0.5)
        files, tasks = num_files(running), gauge(running, "baton_gateway_tasks")
        assert tasks > 0

        outcome = asyncio.run(run_streams(running.url, STREAMS))
        assert outcome.failures == []
        assert outcome.requests == STREAMS

        wait_for("closed files", lambda: num_files(running) <= files)
        wait_for("ended tasks", lambda: gauge(running, "baton_gateway_tasks") <= tasks)
        wait_for(
            "free blocks",
            lambda: all(
                w["load"]["free_blocks"] == w["load"]["num_blocks"] for w in running.workers()
            ),
        )
        assert gauge(running, "baton_inflight_requests") == 0
        assert gauge(running, "baton_queue_length") == 0
