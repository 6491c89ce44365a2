"""The same request gives the same tokens however prefill and decode are spread over processes.

In float64, where rounding cannot flip a token. Real processes, real NIXL.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fakes.deployment import Deployment, deployment

VOCAB = 2000
# Chunked prefill: the longest prompts take several steps of this budget.
CHUNKED = {"BATON_ENGINE__MAX_BATCH_TOKENS": "256", "BATON_LOG__LEVEL": "info"}
FLAGS = ("--dtype", "float64", "--kv-memory", "512MiB")

Body = dict[str, Any]
Tokens = list[list[int]]


def bodies() -> list[Body]:
    """50 prompts from 1 to 3,000 tokens, half greedy and half seeded, some with n=3."""
    rng = random.Random(7)
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 1500, 3000]
    lengths += [int(2 ** rng.uniform(0, 9)) for _ in range(50 - len(lengths))]
    result: list[Body] = []
    for i, length in enumerate(lengths):
        body: Body = {
            "model": "baton-tiny",
            "prompt": [rng.randrange(10, VOCAB) for _ in range(length)],
            "max_tokens": rng.choice([1, 2, 12, 20]),
            "ignore_eos": True,
            "return_token_ids": True,
            "temperature": 0 if i % 2 else 1.0,
            "seed": i,
        }
        if i % 5 == 0:
            body |= {"n": 3, "temperature": 1.0}
        if i % 7 == 0:
            body |= {"presence_penalty": 0.5, "frequency_penalty": 0.5}
        result.append(body)
    return result


def ask(url: str, body: Body) -> Tokens:
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=110)
    assert answer.status_code == 200, answer.text
    choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    return [choice["token_ids"] for choice in choices]


def ask_together(url: str, wanted: list[Body]) -> list[Tokens]:
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(lambda body: ask(url, body), wanted))


def handoffs(url: str) -> float:
    """Handoffs accepted so far, from the gateway's metrics."""
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    accepted = [x for x in lines if x.startswith("baton_handoffs_total") and "accepted" in x]
    return sum(float(line.rsplit(" ", 1)[1]) for line in accepted)


@pytest.fixture(scope="module")
def expected() -> list[Tokens]:
    """What one aggregated worker answers, one request at a time."""
    with deployment(*FLAGS, environment=CHUNKED) as aggregated:
        aggregated.start_workers(any_=1)
        alone = [ask(aggregated.url, body) for body in bodies()]
        assert ask_together(aggregated.url, bodies()) == alone, "batching changed tokens"
        return alone


@pytest.fixture(scope="module", params=[(1, 1, 4), (2, 2, 2)], ids=["1+1", "2+2"])
def split(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    prefill, decode, layer_groups = request.param
    environment = CHUNKED | {"BATON_TRANSFER__LAYER_GROUPS": str(layer_groups)}
    with deployment(*FLAGS, environment=environment) as running:
        running.start_workers(prefill=prefill, decode=decode)
        yield running


@pytest.mark.timeout(300)
def test_split_pools_answer_as_one_aggregated_worker(
    split: Deployment, expected: list[Tokens]
) -> None:
    before = handoffs(split.url)
    assert ask_together(split.url, bodies()) == expected
    moved = handoffs(split.url) - before
    # All but those that end at their first token need a handoff.
    assert moved >= sum(1 for body in bodies() if body["max_tokens"] > 1)


@pytest.mark.timeout(300)
def test_prefix_hits_do_not_change_tokens(split: Deployment, expected: list[Tokens]) -> None:
    some = bodies()[:16]
    for _ in range(2):
        assert [ask(split.url, body) for body in some] == expected[:16]


@pytest.mark.timeout(300)
def test_preemption_does_not_change_tokens(expected: list[Tokens]) -> None:
    wanted = [(b, e) for b, e in zip(bodies(), expected, strict=True) if len(b["prompt"]) <= 300]
    # Room for a few of these at a time: running sequences must give blocks back.
    flags = ("--dtype", "float64", "--kv-blocks", "40")
    environment = CHUNKED | {"BATON_TRANSFER__LAYER_GROUPS": "1"}
    with deployment(*flags, environment=environment) as running:
        running.start_workers(prefill=1, decode=1)
        got = ask_together(running.url, [body for body, _ in wanted])
    assert got == [tokens for _, tokens in wanted]


def busy_decode_worker(split: Deployment) -> str | None:
    """One that has sequences now."""
    for worker in split.workers():
        if worker["role"] == "decode" and worker["load"].get("num_running"):
            name: str = worker["id"]
            return name
    return None


@pytest.mark.timeout(300)
def test_a_killed_decode_worker_does_not_change_tokens(
    split: Deployment, expected: list[Tokens]
) -> None:
    num_workers = len(split.workers())
    with ThreadPoolExecutor(1) as thread:
        victim = None
        while victim is None:
            answers = thread.submit(ask_together, split.url, bodies())
            while victim is None and not answers.done():
                victim = busy_decode_worker(split)
            if victim is None:
                # All was over between two looks.
                assert answers.result() == expected
        split.kill(victim)
        split.start_worker(victim, "decode")
        assert answers.result() == expected
    split.wait_ready(num_workers)
