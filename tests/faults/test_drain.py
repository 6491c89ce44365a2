"""A decode worker is drained under running streams: it empties, and nobody notices.

Real processes, NIXL, float64; each stream is compared with its undisturbed run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from baton.cli.main import app
from fakes.deployment import Deployment, deployment, wait_for
from fakes.streams import Answer, Body, ask
from fakes.tiny_folder import tiny_folder

STREAMS = 40
KV_BLOCKS = 4000
MOVED = 'moves_total{outcome="moved",reason="drain"}'


def body(i: int) -> Body:
    rng = random.Random(i)
    return {
        "model": "tiny",
        "prompt": [rng.randrange(4, 380) for _ in range(rng.choice([20, 60, 200]))],
        "max_tokens": rng.randrange(600, 900),
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0 if i % 2 else 1.0,
        "frequency_penalty": 0.3 if i % 5 == 0 else 0,
        "seed": i,
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    flags = ("--model", str(folder), "--dtype", "float64", "--kv-blocks", str(KV_BLOCKS))
    with deployment(*flags) as it:
        it.start_workers(prefill=1, decode=2)
        yield it


async def ask_all(url: str, answers: list[Answer] | None = None) -> list[Answer]:
    into = answers or [Answer() for _ in range(STREAMS)]
    return await asyncio.gather(*(ask(url, body(i), answer=into[i]) for i in range(STREAMS)))


@pytest.fixture(scope="module")
def expected(running: Deployment) -> list[Answer]:
    answers = asyncio.run(ask_all(running.url))
    assert [a.problem for a in answers if a.problem] == []
    return answers


async def command(running: Deployment, *words: str) -> Result:
    """`baton` with the deployment's store and token, on a thread: a process would take longer to
    start than the drain takes."""
    place = ["--store", running.store, "--token-file", str(running.token_file)]
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, *place])


async def load(running: Deployment, worker: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{running.url}/v1/baton/workers", timeout=10)
    [found] = [w for w in answer.json()["data"] if w["id"] == worker]
    return {"state": found["state"], **found["load"]}


def metric(running: Deployment, name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"baton_{name}"))


async def until_running(running: Deployment, worker: str, count: int) -> None:
    while (await load(running, worker)).get("num_running", 0) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_unclear_orders_are_refused(running: Deployment) -> None:
    unknown = await command(running, "drain", "decode-9")
    assert unknown.exit_code == 1
    assert "no worker 'decode-9'" in unknown.stderr
    assert "decode-0, decode-1, prefill-0" in unknown.stderr
    idle = await command(running, "undrain", "decode-1")
    assert idle.exit_code == 1
    assert "decode-1 is not draining" in idle.stderr


async def test_drained_worker_empties_under_running_streams(
    running: Deployment, expected: list[Answer]
) -> None:
    attempts = metric(running, "attempts_total")
    answers = [Answer() for _ in range(STREAMS)]
    streams = asyncio.create_task(ask_all(running.url, answers))
    await until_running(running, "decode-0", 10)
    began = time.monotonic()
    drained = await command(running, "drain", "decode-0", "--reason", "test")
    took_s = time.monotonic() - began
    num_done = sum(answer.is_done for answer in answers)
    now = await load(running, "decode-0")
    assert drained.exit_code == 0, drained.stderr
    assert "decode-0 is empty" in drained.stdout
    assert now["state"] == "draining"
    assert (now["num_running"], now["num_waiting"]) == (0, 0)
    await streams
    assert [a.problem for a in answers if a.problem] == []
    assert [a.tokens for a in answers] == [a.tokens for a in expected]
    moved = metric(running, MOVED)
    calm = max(a.gap_s for a in expected)
    print(
        f"\ndrain of decode-0: {took_s:.2f} s, {moved:.0f} moved, "
        f"{num_done} of {STREAMS} streams over by then; longest pause of any client "
        f"{max(a.gap_s for a in answers) * 1000:.0f} ms, undisturbed {calm * 1000:.0f} ms"
    )
    assert num_done < STREAMS, "it emptied by itself"
    assert moved >= 5
    assert metric(running, "attempts_total") - attempts == STREAMS, "something was replayed"

    undrained = await command(running, "undrain", "decode-0")
    assert undrained.exit_code == 0, undrained.stderr
    again = asyncio.create_task(ask_all(running.url))
    await until_running(running, "decode-0", 5)
    assert [a.tokens for a in await again] == [a.tokens for a in expected]


async def test_last_decode_worker_that_drains_finishes_what_it_has(
    running: Deployment, expected: list[Answer]
) -> None:
    for name in ("decode-0", "decode-1"):
        assert (await command(running, "drain", name)).exit_code == 0
    assert (await command(running, "undrain", "decode-0")).exit_code == 0
    early = asyncio.create_task(ask_all(running.url))
    await until_running(running, "decode-0", STREAMS)
    busy = await command(running, "drain", "decode-0", "--within", "0.2")
    assert busy.exit_code == 3
    assert "not empty after 0.2 s" in busy.stderr
    wait = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "return_token_ids": True}
    late = asyncio.create_task(ask(running.url, wait))
    too_late = await ask(running.url, wait, headers="x-request-timeout: 0.3\r\n")
    # At its end, or at once where that is foreseen.
    assert "504" in too_late.problem or "429" in too_late.problem
    assert "deadline" in too_late.problem
    assert [a.tokens for a in await early] == [a.tokens for a in expected]
    assert not late.done()
    assert (await command(running, "undrain", "decode-1")).exit_code == 0
    assert (await late).is_done
    assert (await command(running, "undrain", "decode-0")).exit_code == 0


async def test_worker_that_is_told_to_end_hands_its_work_over_first(
    running: Deployment, expected: list[Answer]
) -> None:
    attempts, moved = metric(running, "attempts_total"), metric(running, MOVED)
    streams = asyncio.create_task(ask_all(running.url))
    await until_running(running, "decode-1", 10)
    process = running.processes.pop("decode-1")
    process.terminate()
    assert await asyncio.to_thread(process.wait, 60) == 0, running.log("decode-1")
    answers = await streams
    assert [a.problem for a in answers if a.problem] == []
    assert [a.tokens for a in answers] == [a.tokens for a in expected]
    assert metric(running, MOVED) - moved >= 5
    assert metric(running, "attempts_total") - attempts == STREAMS, "something was replayed"


def test_no_block_is_lost(running: Deployment) -> None:
    wait_for(
        "free blocks",
        lambda: {w["load"]["free_blocks"] for w in running.workers()} == {KV_BLOCKS},
    )
