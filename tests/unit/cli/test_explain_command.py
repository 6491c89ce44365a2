"""`baton explain`: asking a gateway and drawing what it says."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from baton.cli.main import app
from baton.cli.timeline import bar, print_record
from fakes.loopback_server import LoopbackServer, json_handler

ID = "chatcmpl-1"
CANDIDATE = {"chosen": False, "score": 2.5, "cached_tokens": 16, "terms": {"prefill_queue": 2.5}}
RECORD: dict[str, Any] = {
    "object": "baton.request",
    "id": ID,
    "request_id": "mine/1",
    "api": "chat",
    "model": "baton-tiny",
    "code": "ok",
    "arrived_at": 1.0,
    "duration_s": 2.0,
    "first_token_s": 0.5,
    "max_gap_s": 0.125,
    "prompt_tokens": 40,
    "cached_tokens": 16,
    "completion_tokens": 12,
    "slow": True,
    "failed": False,
    "state": "ended",
    "message": "",
    "tenant": "acme",
    "trace_id": None,
    "num_prompts": 1,
    "prompts": [
        {
            "id": ID,
            "predicted": {
                "cached_tokens": {"predicted": 16, "actual": 0},
                "ttft_s": {"predicted": 0.25, "actual": 0.5},
                "tpot_s": {"predicted": None, "actual": 0.1},
            },
            "phases": [
                {"name": "queue", "attempt": 1, "start_s": 0.0, "end_s": 0.25},
                {"name": "prefill", "attempt": 1, "start_s": 0.25, "end_s": 0.5},
                {"name": "decode", "attempt": 1, "start_s": 0.5, "end_s": 2.0},
            ],
            "attempts": [
                {
                    "attempt": 1,
                    "prefill": "prefill-0",
                    "decode": "decode-0",
                    "handoff": {
                        "bytes": 2_000_000,
                        "transport": "nixl",
                        "gb_per_s": 3.5,
                        "grant_wait_s": 0.001,
                        "exposed_s": 0.002,
                        "first_step_s": 0.01,
                    },
                    "choice": {
                        "policy": "kv_aware",
                        "reason": "a prefill worker computes the prompt",
                        "fetch_from": None,
                        "num_candidates": {"prefill": 5},
                        "candidates": [
                            CANDIDATE | {"stage": "prefill", "worker": "prefill-0", "chosen": True},
                            CANDIDATE | {"stage": "prefill", "worker": "prefill-1", "score": None},
                        ],
                    },
                    "failure": {
                        "at_s": 1.5,
                        "side": "target",
                        "worker": "decode-0",
                        "message": "gone",
                    },
                }
            ],
            "moves": [
                {
                    "from": "decode-0",
                    "to": "decode-1",
                    "reason": "drain",
                    "began_s": 1.0,
                    "ended_s": 1.25,
                    "failure": None,
                }
            ],
            "not_shown": 3,
        }
    ],
}


def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
    if unquote(path.removeprefix("/v1/baton/requests/")) in (ID, "mine/1"):
        return 200, RECORD
    error = {"message": "No request is known.", "type": "x", "param": None, "code": "not_found"}
    return 404, {"error": error}


@pytest.fixture
def url() -> Iterator[str]:
    with LoopbackServer(json_handler(answer)) as server:
        yield server.url


@pytest.mark.parametrize("name", [ID, "mine/1"])
def test_it_shows_phases_candidates_handoff_and_what_was_predicted(url: str, name: str) -> None:
    result = CliRunner().invoke(app, ["explain", name, "--url", url])
    assert result.exit_code == 0, result.output
    for part in (
        f"{ID}: ok, slow",
        "x-request-id mine/1",
        "tenant acme",
        "first token after 500.0 ms",
        "━",
        "attempt 1: prefill-0 to decode-0",
        "kv_aware: a prefill worker computes the prompt",
        "2.0 MB by nixl at 3.5 GB/s",
        "PREFILL (2 OF 5)",
        "PREFILL QUEUE",
        "no room",
        "failed after 1.50 s (target of decode-0): gone",
        "moved from decode-0 to decode-1 for drain: done, 250.0 ms",
        "3 more attempts",
        "0.25 s",
    ):
        assert part in result.output, f"{part}\n{result.output}"


def test_json_is_what_the_gateway_said(url: str) -> None:
    result = CliRunner().invoke(app, ["explain", ID, "--json", "--url", url + "/v1/"])
    assert json.loads(result.output) == RECORD


def test_an_unknown_request_is_the_gateways_message(url: str) -> None:
    result = CliRunner().invoke(app, ["explain", "other", "--url", url])
    assert result.exit_code == 1
    assert "baton: No request is known." in result.output


def test_a_gateway_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(app, ["explain", ID, "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:1" in result.output


def test_names_are_no_markup() -> None:
    strange = {**RECORD, "request_id": "[red]x[/red]", "message": "[bold]"}
    out = io.StringIO()
    print_record(strange, Console(file=out, width=120))
    assert "[red]x[/red]" in out.getvalue() and "[bold]" in out.getvalue()


@given(
    begin=st.floats(0, 100),
    takes=st.floats(0, 100),
    width=st.integers(1, 200),
    rest=st.floats(0, 9),
)
def test_bars_fit_their_scale(begin: float, takes: float, width: int, rest: float) -> None:
    left, cells = bar(begin, begin + takes, begin + takes + rest, width)
    assert left >= 0 and cells >= 1 and left + cells <= width
