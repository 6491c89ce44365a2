"""The prefix index of a gateway of several processes, in real processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

BLOCK = 16
NUM_WORKERS = 3
ENVIRONMENT = {
    "BATON_GATEWAY__PROCESSES": "2",
    "BATON_ENGINE__KIND": "mock",
    "BATON_ENGINE__MOCK_STEP_MS": "1",
    "BATON_ENGINE__MOCK_PREFILL_US_PER_TOKEN": "50",
    "BATON_ENGINE__KV_BLOCKS": "4000",
}
# A connection for each request, so that whichever process is free takes it.
CLIENT = httpx.Client(verify=False, headers={"connection": "close"}, timeout=60)
# Blocks of a prompt whose KV is there after it was answered, and what is reused of it next time.
PROMPT_TOKENS = 320
REUSED = PROMPT_TOKENS - BLOCK


def tokens(seed: int) -> list[int]:
    return [(100 * seed + 13 * j + seed * j * j) % 2000 + 10 for j in range(PROMPT_TOKENS)]


def series(running: Deployment, name: str, label: str) -> dict[str, float]:
    """Process to a metric's value, of those samples that have this label."""
    page = ""

    def is_of_all() -> bool:
        # One that is slow is left out.
        nonlocal page
        page = CLIENT.get(f"{running.url}/metrics").text
        return 'process="0"' in page and 'process="1"' in page

    wait_for("the metrics of both", is_of_all)
    found: dict[str, float] = {}
    for line in page.splitlines():
        process = re.search(r'process="(\d+)"', line)
        if line.startswith(f"{name}{{") and label in line and process:
            found[process[1]] = found.get(process[1], 0.0) + float(line.split()[-1])
    return found


def ask(running: Deployment, prompt: list[int]) -> tuple[str, str, int, dict[str, int]]:
    """The process that served it, its worker, cached tokens, and what the process knew of them: on
    each worker.
    """
    before = series(running, "baton_requests_total", 'code="ok"')
    body = {"model": "baton-tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    answer = CLIENT.post(f"{running.url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    after = series(running, "baton_requests_total", 'code="ok"')
    (process,) = [name for name, count in after.items() if count != before.get(name, 0.0)]
    cached: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    request_id = answer.headers["x-request-id"]
    record: dict[str, Any] = {}

    def is_told() -> bool:
        found = CLIENT.get(f"{running.url}/v1/baton/requests/{request_id}")
        record.update(found.json())
        return found.status_code == 200

    wait_for("the record", is_told)
    choice = record["prompts"][0]["attempts"][0]["choice"]
    known = {one["worker"]: one["cached_tokens"] for one in choice["candidates"]}
    return process, choice["decode"], cached, known


def indexed(running: Deployment) -> dict[str, float]:
    return series(running, "baton_indexed_blocks", 'tier="device"')


def served_by_both(running: Deployment, first_seed: int) -> None:
    """A prompt that one process placed is a hit that the other one foresees."""
    met: set[tuple[str, str]] = set()
    # The kernel decides who accepts, and need not be fair.
    for seed in range(first_seed, first_seed + 500):
        before = sum(indexed(running).values())
        asked, holder, _, _ = ask(running, tokens(seed))
        wait_for("its events", lambda n=before: sum(indexed(running).values()) >= n + 20)
        again, worker, cached, known = ask(running, tokens(seed))
        assert known[holder] == REUSED and known[worker] == cached, (seed, asked, again)
        met.add((asked, again))
        if {("0", "1"), ("1", "0")} <= met:
            return
    raise AssertionError(f"only met {met}")


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ready(running: Deployment) -> bool:
    """Every process has its workers: ask often enough to meet each."""
    answers = [CLIENT.get(f"{running.url}/ready").json() for _ in range(30)]
    return all(not answer.get("shortages", True) for answer in answers)


def shared_memory(pid: int) -> set[str]:
    """Open files without a name of a process."""
    folder = Path(f"/proc/{pid}/fd")
    return {os.readlink(fd) for fd in folder.iterdir() if "memfd:baton" in os.readlink(fd)}


def test_one_index_serves_all_processes_and_a_replaced_one() -> None:
    with deployment(environment=ENVIRONMENT) as running:
        running.start_workers(any_=NUM_WORKERS)
        wait_for("two gateways with workers", lambda: ready(running))
        served_by_both(running, 0)
        # One reads: a snapshot from each worker, and all events.
        snapshots = series(running, "baton_kv_events_total", 'kind="snapshot"')
        assert {k: v for k, v in snapshots.items() if v} == {"0": NUM_WORKERS}
        assert set(indexed(running)) == {"0"}

        # Another process in the place of one that was killed knows it all.
        (old,) = children(running.gateway.pid)
        assert shared_memory(old) == shared_memory(running.gateway.pid) != set()
        os.kill(old, signal.SIGKILL)
        wait_for("a replacement", lambda: children(running.gateway.pid) not in ([], [old]))
        wait_for("its workers", lambda: ready(running))
        served_by_both(running, 500)
        assert series(running, "baton_kv_events_total", 'kind="snapshot"')["0"] == NUM_WORKERS


def test_killed_reader_takes_its_siblings_and_the_memory_with_it() -> None:
    """It is the first process, the parent of the others: they finish what they serve, and end."""
    environment = {**ENVIRONMENT, "BATON_GATEWAY__SHUTDOWN_GRACE_S": "60"}
    with deployment(environment=environment) as running:
        running.start_workers(any_=1)
        wait_for("two gateways with workers", lambda: ready(running))
        (child,) = children(running.gateway.pid)
        body = {"model": "baton-tiny", "prompt": tokens(1), "max_tokens": 3000, "stream": True}
        for _ in range(300):
            with CLIENT.stream(
                "POST",
                f"{running.url}/v1/completions",
                json=body | {"ignore_eos": True},
            ) as answer:
                lines = answer.iter_lines()
                next(lines)
                if not series(running, "baton_inflight_requests", "").get("1"):
                    # The other one has it.
                    continue
                running.kill("gateway")
                assert "data: [DONE]" in list(lines)
                break
        else:
            raise AssertionError("the second process never served")
        wait_for("its end", lambda: not Path(f"/proc/{child}").exists())
