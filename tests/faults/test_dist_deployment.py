"""Real workers that hand over by torch.distributed: same tokens, and what carries them is told."""

from __future__ import annotations

import random
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

FLAGS = ("--dtype", "float64", "--kv-memory", "256MiB")
DIST = {"BATON_TRANSFER__TRANSPORT": "dist", "BATON_TRANSFER__EXPECT_RDMA": "true"}


def bodies() -> list[dict[str, Any]]:
    rng = random.Random(11)
    return [
        {
            "model": "baton-tiny",
            "prompt": [rng.randrange(10, 2000) for _ in range(length)],
            "max_tokens": 12,
            "ignore_eos": True,
            "return_token_ids": True,
            "temperature": 0,
        }
        for length in (5, 16, 100, 700)
    ]


def answers(running: Deployment) -> list[list[int]]:
    found = []
    for body in bodies():
        answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=110)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["token_ids"])
    return found


def links(running: Deployment) -> dict[str, tuple[str, str]]:
    """Measured ways to peers: (transport, fabric) by worker."""
    return {
        worker["id"]: (link["transport"], link["fabric"])
        for worker in running.workers()
        for link in worker["links"]
        if link["is_up"] and link["bytes_per_s"] > 0
    }


def metric(running: Deployment, name: str, *labels: str) -> list[float]:
    """Values of a gateway's metric that has these labels."""
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    found = [x for x in lines if x.startswith(name + "{") and all(label in x for label in labels)]
    return [float(line.rsplit(" ", 1)[1]) for line in found]


def test_workers_hand_over_by_torch_distributed() -> None:
    with deployment(*FLAGS) as aggregated:
        aggregated.start_workers(any_=1)
        expected = answers(aggregated)
    with deployment(*FLAGS, environment=DIST) as split:
        split.start_workers(prefill=1, decode=1)
        assert answers(split) == expected
        wait_for("both workers to have measured", lambda: len(links(split)) == 2)
        assert set(links(split).values()) == {("dist", "tcp")}
        accepted = metric(split, "baton_handoffs_total", 'outcome="accepted"')
        assert sum(accepted) == len(bodies())
        # The gauges follow the load reports after a moment.
        ways = ('transport="dist"', 'fabric="tcp"')
        name = "baton_peer_bandwidth_bytes_per_second"
        wait_for("the metric", lambda: len(metric(split, name, *ways)) == 2)
        assert all(rate > 0 for rate in metric(split, name, *ways))
        # RDMA was expected and did not come.
        assert "rdma_expected" in split.log("prefill-0")
