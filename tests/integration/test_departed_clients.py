"""A client that goes away is cancelled everywhere: gateway, both workers, a transfer under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from fakes.deployment import Deployment, deployment, wait_for

# 300 prompt tokens take 3 s in chunks of 16, so there is time to leave in the middle.
FLAGS = ("--engine", "mock", "--mock-step-ms", "20", "--mock-prefill-us-per-token", "10000")
ENVIRONMENT = {"BATON_ENGINE__MAX_BATCH_TOKENS": "16"}
PROMPT = [7 + i % 1000 for i in range(300)]


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    with deployment(*FLAGS, environment=ENVIRONMENT) as it:
        it.start_workers(prefill=1, decode=1)
        yield it


def loads(running: Deployment) -> dict[str, dict[str, Any]]:
    return {worker["id"]: worker["load"] for worker in running.workers()}


def is_idle(running: Deployment) -> bool:
    return all(
        load["free_blocks"] + load["quarantined_blocks"] == load["num_blocks"]
        and load["num_running"] == load["num_waiting"] == load["reserved_blocks"] == 0
        for load in loads(running).values()
    )


def is_sending(running: Deployment) -> bool:
    """The target has granted: blocks are written while later chunks are computed."""
    return loads(running)["decode-0"]["reserved_blocks"] > 0


def is_decoding(running: Deployment) -> bool:
    return loads(running)["decode-0"]["num_running"] > 0


@pytest.mark.parametrize("moment", [is_sending, is_decoding])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_blocks_are_free_again(
    running: Deployment, moment: Callable[[Deployment], bool], streamed: bool
) -> None:
    import asyncio

    body = {
        "model": "baton-tiny",
        # Another prompt each time, so that none is a prefix hit.
        "prompt": [int(time.monotonic_ns() % 2000) + 10, *PROMPT],
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": streamed,
    }
    async with httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(client.post(f"{running.url}/v1/completions", json=body))
        await asyncio.to_thread(wait_for, "the moment", lambda: moment(running))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.to_thread(wait_for, "free blocks", lambda: is_idle(running))
    wait_for(
        "the end of any quarantine",
        lambda: all(not load["quarantined_blocks"] for load in loads(running).values()),
    )
