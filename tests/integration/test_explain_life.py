"""Real processes: a request explained by another gateway, and a gateway that leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import httpx

from fakes.deployment import Deployment, deployment, wait_for

PREFILL_S = 0.4
PROMPT_TOKENS = 400
MOCK = (
    *("--engine", "mock", "--mock-step-ms", "5"),
    *("--mock-prefill-us-per-token", str(1e6 * PREFILL_S / PROMPT_TOKENS)),
)


def body(**fields: Any) -> dict[str, Any]:
    prompt = list(range(5, 5 + PROMPT_TOKENS))
    return {"model": "baton-tiny", "prompt": prompt, "max_tokens": 20, "ignore_eos": True, **fields}


def explain(it: Deployment, url: str, name: str, *flags: str) -> str:
    command = [sys.executable, "-m", "baton.cli.main", "explain", name, "--url", url, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def second_gateway(it: Deployment) -> str:
    """Another one in front of the same workers; its URL."""
    ports = ("--port", "0", "--grpc-port", "0", "--json")
    it._start("gateway-2", "gateway", *ports, "--store", it.store)

    def addresses() -> list[str]:
        return [line for line in it.log("gateway-2").splitlines() if line.startswith("{")]

    wait_for("the second gateway", lambda: bool(addresses()), 90)
    url: str = json.loads(addresses()[0])["http"]
    return url


def test_any_gateway_explains_a_request_phase_by_phase() -> None:
    with deployment(*MOCK) as it:
        other = second_gateway(it)
        it.start_workers(prefill=1, decode=1)
        answer = httpx.post(
            f"{it.url}/v1/completions",
            json=body(),
            headers={"x-request-id": "mine"},
            timeout=30,
        )
        assert answer.headers["x-request-id"] == "mine"
        call_id = answer.json()["id"]
        wait_for(
            "the record in the store",
            lambda: httpx.get(f"{other}/v1/baton/requests/mine").status_code == 200,
        )
        for url in (it.url, other):
            for name in (call_id, "mine"):
                record = json.loads(explain(it, url, name, "--json"))
                assert (record["id"], record["request_id"]) == (call_id, "mine")
        (prompt,) = record["prompts"]
        took = {p["name"]: p["end_s"] - p["start_s"] for p in prompt["phases"]}
        assert took["prefill"] >= 0.9 * PREFILL_S
        for before, after in pairwise(prompt["phases"]):
            assert before["end_s"] == after["start_s"], "no time is told twice, or not at all"
        # A gateway that is held up sees the first token late, and the last not.
        assert took["decode"] > 0
        (attempt,) = prompt["attempts"]
        assert (attempt["prefill"], attempt["decode"]) == ("prefill-0", "decode-0")
        handoff = attempt["handoff"]
        assert handoff["transport"] == "nixl" and handoff["bytes"] > 0
        assert handoff["gb_per_s"] > 0 and handoff["first_step_s"] > 0
        shown = explain(it, other, call_id)
        assert "prefill-0 to decode-0" in shown and "━" in shown
        unknown = httpx.get(f"{other}/v1/baton/requests/nobodys")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "not_found"


def test_a_gateway_that_is_told_to_leave_finishes_its_streams() -> None:
    environment = {"BATON_GATEWAY__UNREADY_WAIT_S": "5.0"}
    with deployment(*MOCK, environment=environment) as it:
        # Nobody is needed for a gateway to be sent requests.
        ready = httpx.get(f"{it.url}/ready")
        assert ready.status_code == 200 and "no worker" in ready.json()["shortages"]["baton-tiny"]
        it.start_workers(any_=1)
        assert httpx.get(f"{it.url}/ready").json()["shortages"] == {}
        wanted = body(stream=True, max_tokens=600, return_token_ids=True)
        with httpx.stream("POST", f"{it.url}/v1/completions", json=wanted, timeout=30) as stream:
            lines = stream.iter_lines()
            whole = [next(lines)]
            it.gateway.send_signal(signal.SIGTERM)
            told = time.monotonic()
            wait_for(
                "an unready gateway", lambda: httpx.get(f"{it.url}/ready").status_code == 503, 4
            )
            # Load balancers may not have noticed yet.
            late = httpx.post(f"{it.url}/v1/completions", json=body(), timeout=30)
            assert late.status_code == 200 and late.headers["connection"] == "close"
            whole += [line for line in lines if line]
        assert whole.pop() == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in whole]
        tokens = [choice["token_ids"] for chunk in chunks for choice in chunk["choices"]]
        assert sum(len(ids or ()) for ids in tokens) == 600
        assert it.gateway.wait(30) == 0
        assert time.monotonic() - told > 5.0
        del it.processes["gateway"]
