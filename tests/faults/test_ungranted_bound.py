"""A prefill worker whose target grants nothing computes up to its bound, waits, and goes on.

Real processes and real NIXL; the mock engine asserts that the KV it reads is the KV it should read.
"""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

BLOCKS = 64
BLOCK_SIZE = 16
PROMPT_BLOCKS = 6
REQUESTS = 8
# A quarter of the pool (transfer.max_ungranted_share), passed by one prompt at most.
BOUND = BLOCKS // 4
FLAGS = ("--engine", "mock", "--mock-step-ms", "2", "--kv-blocks", str(BLOCKS))


def ask(url: str, i: int) -> list[int]:
    """A prompt of its own, so that nothing is cached."""
    body = {
        "model": "baton-tiny",
        "prompt": [100 + 50 * i + j % 50 for j in range(PROMPT_BLOCKS * BLOCK_SIZE)],
        "max_tokens": 4,
        "seed": i,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def load(running: Deployment, worker_id: str) -> dict[str, Any]:
    [found] = [w["load"] for w in running.workers() if w["id"] == worker_id]
    return found


def test_a_source_stops_at_its_bound_of_ungranted_blocks_and_goes_on_after() -> None:
    with deployment(*FLAGS) as running:
        running.start_workers(prefill=1, decode=1)
        expected = [ask(running.url, i) for i in range(REQUESTS)]
        # Their prefixes are cached; evict nothing, begin anew.
        running.kill("prefill-0")
        running.start_worker("prefill-0", "prefill")
        wait_for("a new prefill worker", lambda: len(ready(running)) == 2)

        running.kill("decode-0", signal.SIGSTOP)
        with ThreadPoolExecutor(REQUESTS) as threads:
            answers = [threads.submit(ask, running.url, i) for i in range(REQUESTS)]
            seen: list[int] = []

            def is_at_its_bound() -> bool:
                report = load(running, "prefill-0")
                seen.append(BLOCKS - report["free_blocks"])
                return seen[-1] > BOUND and report["num_waiting"] > 0

            try:
                wait_for("the bound", is_at_its_bound)
                # Whoever waits is not computed however long the target is silent.
                for _ in range(20):
                    is_at_its_bound()
            finally:
                running.processes["decode-0"].send_signal(signal.SIGCONT)
            assert [answer.result() for answer in answers] == expected
        assert BOUND < max(seen) <= BOUND + PROMPT_BLOCKS
        wait_for(
            "free blocks",
            lambda: {w["load"]["free_blocks"] for w in running.workers()} == {BLOCKS},
        )


def ready(running: Deployment) -> list[str]:
    """Ids of the workers that have reported."""
    return [
        w["id"]
        for w in running.workers()
        if w["state"] == "ready" and "free_blocks" in w["load"] and w["id"] in running.processes
    ]
