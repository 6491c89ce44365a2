"""A rollout as an operator does it: real gateway and worker processes, a real Redis, HTTP alone."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.deployment import Deployment, deployment, wait_for
from suites.redis_server import RedisServer

pytestmark = pytest.mark.redis

FLAGS = ("--engine", "mock", "--mock-step-ms", "5")
BODY = {"model": "baton-tiny", "prompt": "one", "max_tokens": 20, "ignore_eos": True}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


class Rollout:
    """The operator's hands on a deployment that is open to a network."""

    def __init__(self, running: Deployment) -> None:
        self.running = running
        self._bearer = {"authorization": f"Bearer {running.token_file.read_text().strip()}"}

    def start(self, revision: str) -> None:
        for role in ("prefill", "decode"):
            self.running.start_worker(
                f"{role}-{revision}", role, environment={"BATON_WORKER__REVISION": revision}
            )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method,
            f"{self.running.url}/v1/baton/{path}",
            json=body,
            headers=self._bearer,
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self, worker: str) -> dict[str, Any]:
        (row,) = [row for row in self.call("GET", "status")["workers"] if row["id"] == worker]
        return row  # type: ignore[no-any-return]

    def complete(self) -> list[str]:
        """One request's workers, prefill first."""
        url = self.running.url
        answer = httpx.post(f"{url}/v1/completions", json=BODY, timeout=60)
        assert answer.status_code == 200, answer.text
        record = self.call("GET", f"requests/{answer.headers['x-request-id']}")
        (prompt,) = record["prompts"]
        choice = prompt["attempts"][0]["choice"]
        return [choice["prefill"], choice["decode"]]


def test_a_rollout_by_weights_and_drains_breaks_no_stream(redis: RedisServer) -> None:
    environment = {
        "BATON_STORE__URL": redis.url,
        "BATON_STORE__KEY_PREFIX": "baton:0d2f5a52-8a3c-4a6f-9c55-2f6c2a1b7e10",
        "BATON_GATEWAY__HOST": "0.0.0.0",
        "BATON_GATEWAY__AUTH": "off",
    }
    with deployment(*FLAGS, environment=environment) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        rollout = Rollout(running)
        drain = f"{running.url}/v1/baton/workers/decode-r1/drain"
        assert httpx.post(drain, json={}, timeout=10).status_code == 401
        rollout.start("r1")
        running.wait_ready(2)
        assert rollout.call("GET", "status")["revisions"] == {"r1": 1.0}
        rollout.start("r2")
        running.wait_ready(4)
        assert rollout.call("GET", "status")["revisions"] == {"r1": 0.5, "r2": 0.5}
        assert rollout.state("decode-r2")["revision"] == "r2"

        seen = {tuple(rollout.complete()) for _ in range(20)}
        assert seen == {("prefill-r1", "decode-r1"), ("prefill-r2", "decode-r2")}
        rollout.call("PUT", "traffic", {"weights": {"r1": 1}})
        assert {tuple(rollout.complete()) for _ in range(5)} == {("prefill-r1", "decode-r1")}

        # The old pair drains under load: what runs there moves to the new revision.
        statuses: list[int] = []

        def post() -> None:
            body = BODY | {"max_tokens": 1200}
            answer = httpx.post(f"{running.url}/v1/completions", json=body, timeout=60)
            done = answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 1200
            statuses.append(200 if done else answer.status_code)

        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for("the load", lambda: rollout.state("decode-r1")["load"].get("num_running", 0) >= 4)
        rollout.call("PUT", "traffic", {"weights": {"r2": 1}})
        for worker in ("prefill-r1", "decode-r1"):
            rollout.call("POST", f"workers/{worker}/drain", {"reason": "rollout"})
        wait_for("the move", lambda: rollout.state("decode-r1")["load"].get("num_running") == 0)
        assert rollout.state("decode-r1")["draining"]
        for thread in threads:
            thread.join()
        assert statuses == [200] * 8
        page = httpx.get(f"{running.url}/metrics", timeout=10).text
        assert re.search(r'^baton_moves_total\{outcome="moved",reason="drain"\} [1-9]', page, re.M)

        # Rolled back: the weight is of a revision that cannot serve, and then can again.
        rollout.call("PUT", "traffic", {"weights": {"r1": 1}})
        assert set(rollout.complete()) == {"prefill-r2", "decode-r2"}
        for worker in ("prefill-r1", "decode-r1"):
            rollout.call("POST", f"workers/{worker}/undrain")
        wait_for("r1", lambda: rollout.call("GET", "traffic")["shares"].get("r1") == 1.0)
        assert set(rollout.complete()) == {"prefill-r1", "decode-r1"}
        slo = rollout.call("GET", "status")["slo"]
        assert slo["errors"] == 0 and slo["requests"] >= 33 and slo["ttft_s"] > 0

    # Weights outlive gateways.
    with deployment(*FLAGS, environment=environment) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        again = Rollout(running)
        wait_for("weights", lambda: again.call("GET", "traffic")["weights"] == {"r1": 1.0})
