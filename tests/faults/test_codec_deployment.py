"""Real workers whose KV crosses as int8: fewer bytes, answers as long, first tokens the same."""

from __future__ import annotations

import random
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment

FLAGS = ("--dtype", "float32", "--kv-memory", "256MiB")
PROMPT_TOKENS = 700
NUM_TOKENS = 30
NUM_PROMPTS = 6
# baton-tiny in float32: 20 vectors (K and V) of 32 elements for each of 16 tokens.
BLOCK_BYTES = 16 * 20 * 32 * 4
RECORD_BYTES = 16 * 20 * (32 + 4)
NUM_FULL, NUM_TAILS = PROMPT_TOKENS // 16, 1


def ask(running: Deployment, seed: int) -> list[int]:
    rng = random.Random(seed)
    body: dict[str, Any] = {
        "model": "baton-tiny",
        "prompt": [rng.randrange(10, 2000) for _ in range(PROMPT_TOKENS)],
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0,
    }
    answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=110)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def totals(running: Deployment, *names: str) -> list[float]:
    """Sums of these metrics of the gateway, at one moment."""
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return [sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(name)) for name in names]


def split(**environment: str) -> tuple[list[list[int]], float]:
    """Answers of a prefill and a decode worker, and bytes of a handoff between them."""
    with deployment(*FLAGS, environment=environment) as running:
        running.start_workers(prefill=1, decode=1)
        tokens = [ask(running, seed) for seed in range(NUM_PROMPTS)]
        [accepted] = totals(running, "baton_handoffs_total")
        assert accepted == NUM_PROMPTS
        # A source's report that comes after its request has ended is not counted.
        reports, seed = 0.0, NUM_PROMPTS
        while not reports:
            reports, size = totals(
                running, "baton_handoff_bytes_count", "baton_handoff_kv_bytes_total"
            )
            ask(running, seed := seed + 1)
        return tokens, size / reports


def test_int8_on_the_wire() -> None:
    exact, plain_bytes = split()
    encoded, encoded_bytes = split(BATON_TRANSFER__CODEC="int8")
    assert plain_bytes == (NUM_FULL + NUM_TAILS) * BLOCK_BYTES
    assert encoded_bytes == NUM_FULL * RECORD_BYTES + NUM_TAILS * BLOCK_BYTES
    assert [len(tokens) for tokens in encoded] == [NUM_TOKENS] * NUM_PROMPTS
    # The source computes these from KV that went nowhere; the rest may differ.
    assert [tokens[0] for tokens in encoded] == [tokens[0] for tokens in exact]
