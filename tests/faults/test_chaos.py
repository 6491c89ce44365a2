"""Everything goes wrong at once, and no client notices: no broken stream, no wrong token, no leak.

Two prefill and two decode workers serve streams in float64 while, every second, a handoff message
is lost, late, doubled or out of turn, a block is corrupted, a worker freezes or a client leaves;
and now and then a worker is killed and started again. Each stream is compared with its undisturbed
run.

`make chaos` runs two minutes with 200 streams; the test run a shorter one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.deployment import Deployment, deployment, wait_for
from fakes.faulty_worker import MESSAGE_FAULTS
from fakes.streams import Body, ask

SECONDS = float(os.environ.get("BATON_TEST_CHAOS_SECONDS", "24"))
STREAMS = int(os.environ.get("BATON_TEST_CHAOS_STREAMS", "24"))
SEED = int(os.environ.get("BATON_TEST_CHAOS_SEED", "1"))
# Kills are this far apart, so that a pool has its worker back before the next.
KILL_EVERY_S = 20.0
FIRST_KILL_S = 4.0
MAX_FREEZE_S = 2.0
KV_BLOCKS = 3000
FLAGS = ("--dtype", "float64", "--kv-blocks", str(KV_BLOCKS))
# Chunked prefill, so that handoffs are under way for several steps.
ENVIRONMENT = {"BATON_ENGINE__MAX_BATCH_TOKENS": "512"}
WORKERS = {f"{role}-{i}": role for role in ("prefill", "decode") for i in range(2)}
NUM_PROMPTS = 60
FAULTS = (*MESSAGE_FAULTS, "corrupt", "freeze", "abort")


def body(i: int) -> Body:
    rng = random.Random(i)
    choices = 2 if i % 10 == 0 else 1
    return {
        "model": "baton-tiny",
        "prompt": [rng.randrange(10, 2000) for _ in range(rng.choice([20, 60, 200, 700]))],
        "max_tokens": rng.randrange(20, 60),
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0 if i % 2 and choices == 1 else 1.0,
        "presence_penalty": 0.4 if i % 7 == 0 else 0,
        "seed": i,
        "n": choices,
    }


class Clients:
    """`STREAMS` streams at any time, each checked against its undisturbed run."""

    def __init__(self, url: str, expected: list[dict[int, list[int]]]) -> None:
        self._url = url
        self._expected = expected
        self._next = 0
        self.stopping = False
        self.num_streams = 0
        self.num_tokens = 0
        self.broken: list[str] = []
        self.wrong: list[str] = []
        # Each stream's longest wait for an event.
        self.gaps: list[float] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while not self.stopping:
            i, self._next = self._next % NUM_PROMPTS, self._next + 1
            answer = await ask(self._url, body(i))
            self.num_streams += 1
            self.num_tokens += sum(len(tokens) for tokens in answer.tokens.values())
            self.gaps.append(max(answer.first_s, answer.gap_s))
            if answer.problem or not answer.is_done:
                self.broken.append(f"prompt {i}: {answer.problem or 'closed early'}")
            elif answer.tokens != self._expected[i]:
                self.wrong.append(f"prompt {i}: {answer.tokens} is not {self._expected[i]}")


class Chaos:
    """Does the harm, one piece a second."""

    def __init__(self, running: Deployment, folder: Path) -> None:
        self._running = running
        self._folder = folder
        self._rng = random.Random(SEED)
        self._lives = 0
        self._sockets: dict[str, Path] = {}
        self.counts: Counter[str] = Counter()
        # Worker and seconds from its kill until it serves again.
        self.recoveries: list[tuple[str, float]] = []

    def start(self, worker: str) -> None:
        self._lives += 1
        self._sockets[worker] = self._folder / f"{self._lives}.sock"
        self._running.start_worker(worker, WORKERS[worker], faults=str(self._sockets[worker]))

    async def run(self) -> None:
        began = time.monotonic()
        pools = [[w for w, r in WORKERS.items() if r == role] for role in ("decode", "prefill")]
        kills = 0
        async with asyncio.TaskGroup() as group:
            while (now := time.monotonic() - began) < SECONDS:
                if now >= FIRST_KILL_S + kills * KILL_EVERY_S:
                    victim = self._rng.choice(pools[kills % 2])
                    kills += 1
                    group.create_task(self._kill(victim))
                else:
                    group.create_task(self._harm(self._rng.choice(FAULTS)))
                await asyncio.sleep(1.0)

    async def _harm(self, fault: str) -> None:
        self.counts[fault] += 1
        if fault == "abort":
            await ask(self._running.url, body(self._rng.randrange(NUM_PROMPTS)), leave_after=5)
            return
        worker = self._rng.choice(list(WORKERS))
        process = self._running.processes.get(worker)
        if fault != "freeze":
            self._tell(worker, fault)
        elif process is not None and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(0.2, MAX_FREEZE_S))
            process.send_signal(signal.SIGCONT)

    def _tell(self, worker: str, fault: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            try:
                s.sendto(fault.encode(), str(self._sockets[worker]))
            except OSError:
                # It is being started again.
                self.counts[fault] -= 1

    async def _kill(self, worker: str) -> None:
        self.counts["kill"] += 1
        killed_at = time.monotonic()
        self._running.kill(worker)
        self.start(worker)
        await asyncio.to_thread(wait_for, worker, lambda: self._is_ready(worker), 90.0)
        self.recoveries.append((worker, time.monotonic() - killed_at))

    def _is_ready(self, worker: str) -> bool:
        return any(w["id"] == worker and w["state"] == "ready" for w in self._running.workers())


@pytest.fixture(scope="module")
def expected() -> list[dict[int, list[int]]]:
    """What a single aggregated worker answers in peace."""

    async def ask_all(url: str) -> list[dict[int, list[int]]]:
        answers = await asyncio.gather(*(ask(url, body(i)) for i in range(NUM_PROMPTS)))
        assert all(answer.is_done for answer in answers)
        return [answer.tokens for answer in answers]

    with deployment(*FLAGS, environment=ENVIRONMENT) as alone:
        alone.start_workers(any_=1)
        return asyncio.run(ask_all(alone.url))


@pytest.fixture
def running() -> Iterator[Deployment]:
    with deployment(*FLAGS, environment=ENVIRONMENT) as it:
        yield it


@pytest.mark.timeout(SECONDS + 180)
def test_chaos_breaks_no_stream(
    running: Deployment, expected: list[dict[int, list[int]]], tmp_path: Path
) -> None:
    chaos = Chaos(running, tmp_path)
    for worker in WORKERS:
        chaos.start(worker)
    running.wait_ready(len(WORKERS))
    clients = Clients(running.url, expected)

    async def run() -> None:
        streams = asyncio.create_task(clients.run())
        await chaos.run()
        clients.stopping = True
        await streams

    asyncio.run(run())
    report(chaos, clients)
    assert not clients.broken, clients.broken[:5]
    assert not clients.wrong, clients.wrong[:5]
    assert clients.num_streams > STREAMS, "hardly anything was served"
    wait_for(
        "free blocks",
        lambda: {w["load"].get("free_blocks") for w in running.workers()} == {KV_BLOCKS},
    )


def report(chaos: Chaos, clients: Clients) -> None:
    """Print what happened, for `make chaos`."""
    gaps = sorted(clients.gaps)
    print(f"\nseed {SEED}, {SECONDS:g} s, {STREAMS} streams at a time")
    print("faults:", ", ".join(f"{count} x {fault}" for fault, count in chaos.counts.items()))
    print(
        f"{clients.num_streams} streams, {clients.num_tokens} tokens, "
        f"{len(clients.broken)} broken, {len(clients.wrong)} wrong"
    )
    print(
        "longest pause within a stream: "
        f"p50 {gaps[len(gaps) // 2]:.2f} s, p99 {gaps[len(gaps) * 99 // 100]:.2f} s, "
        f"max {gaps[-1]:.2f} s"
    )
    for worker, recovery_s in chaos.recoveries:
        print(f"{worker} killed, serving again after {recovery_s:.1f} s")
