"""A worker that was killed serves prompts from what its earlier life left on the disk.

Real processes, the embedded model in float64, whole requests over HTTP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

BLOCK = 16
PROMPT_TOKENS = 200
FLAGS = ("--dtype", "float64", "--kv-blocks", "24", "--disk-kv", "64MiB")


def ask(url: str, first: int) -> tuple[list[int], int]:
    """The tokens of an answer, and how many of the prompt's were cached."""
    body = {
        "model": "baton-tiny",
        "prompt": [(first + 13 * j) % 2000 + 10 for j in range(PROMPT_TOKENS)],
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    cached: int = document["usage"]["prompt_tokens_details"]["cached_tokens"]
    return document["choices"][0]["token_ids"], cached


def metric(running: Deployment, start: str) -> float:
    """The value of the one series that begins like this, 0 when there is none."""
    text = httpx.get(f"{running.url}/metrics", timeout=10).text
    values = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(start)]
    return values[0] if values else 0.0


def series(event: str) -> str:
    return f'baton_tier_blocks_total{{event="{event}",tier="disk",worker="any-0"}}'


def test_a_restarted_worker_serves_a_hit_from_the_same_disk_path(tmp_path: Path) -> None:
    with deployment(*FLAGS, "--disk-kv-path", str(tmp_path)) as running:
        running.start_workers(any_=1)
        prompts = [100, 700, 1300]
        expected = [ask(running.url, first) for first in prompts]
        assert [cached for _, cached in expected] == [0, 0, 0]
        num_full = PROMPT_TOKENS // BLOCK
        wait_for(
            "all blocks of all prompts on the disk",
            lambda: len(list(tmp_path.rglob("*.kv"))) >= len(prompts) * num_full,
        )
        # Two prompts fill the pool, so the first was evicted: the same life has hits too.
        assert ask(running.url, prompts[0]) == (expected[0][0], num_full * BLOCK)

        running.kill("any-0")
        running.start_worker("any-0", "any")
        wait_for(
            "the records of the earlier life",
            lambda: (
                metric(running, 'baton_tier_bytes{of="used",tier="disk"') > 0
                and metric(running, series("demotions")) == 0
            ),
            timeout_s=60,
        )
        for first, (tokens, _) in zip(prompts, expected, strict=True):
            assert ask(running.url, first) == (tokens, num_full * BLOCK)
        # Gauges follow the load reports with some delay.
        wait_for(
            "the hits to be counted",
            lambda: metric(running, series("hits")) >= len(prompts) * num_full,
        )
        assert metric(running, series("failures")) == 0
