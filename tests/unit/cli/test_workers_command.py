"""`baton workers`: asking a gateway and showing what it says."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from baton.cli.gateway_link import own_url
from baton.cli.main import app
from baton.cli.workers import load_cells, print_table
from baton.core.settings import GatewaySettings
from fakes.loopback_server import LoopbackServer, json_handler

WORKER: dict[str, Any] = {
    "id": "decode-0",
    "role": "decode",
    "model": "baton-tiny",
    "state": "ready",
    "reason": "no prefill worker has its KV digest",
    "pid": 4711,
    "node": "node-a",
    "address": "127.0.0.1:1",
    "epoch": "00ff00ff00ff00ff",
    "digest": "abcdef0123456789",
    "transport": "nixl",
    "load": {"num_blocks": 100, "num_running": 3, "num_waiting": 2, "free_blocks": 60},
    "links": [
        {"peer": "prefill-0", "fabric": "tcp", "bytes_per_s": 1e9, "is_up": True},
        {"peer": "prefill-1", "fabric": "shared memory", "bytes_per_s": 0, "is_up": True},
        {"peer": "prefill-2", "fabric": "shared memory", "bytes_per_s": 1e9, "is_up": True},
        {"peer": "prefill-3", "fabric": "rdma", "bytes_per_s": 1e9, "is_up": False},
        {"peer": "prefill-4", "fabric": "", "bytes_per_s": 0, "is_up": True},
    ],
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
    found = path == "/v1/baton/workers"
    return 200 if found else 404, {"object": "list", "data": [WORKER]}


@pytest.fixture
def url() -> Iterator[str]:
    with LoopbackServer(json_handler(answer)) as server:
        yield server.url


def test_the_table_has_a_line_per_worker_and_the_reason(url: str) -> None:
    result = CliRunner().invoke(app, ["workers", "--url", url])
    assert result.exit_code == 0, result.output
    for cell in ("decode-0", "4711", "node-a", "3+2", "40/100", "abcdef01", "nixl/shm/tcp"):
        assert cell in result.output
    assert "decode-0: no prefill worker has its KV digest" in result.output


def test_a_narrow_terminal_shows_what_carries_the_kv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    print_table([WORKER | {"links": WORKER["links"][2:3], "pid": 4194304}])
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[1].endswith("nixl/shm") and "NODE" not in lines[0]
    assert len(lines[1]) <= 80


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_json_is_what_the_gateway_said(url: str, suffix: str) -> None:
    result = CliRunner().invoke(app, ["workers", "--json", "--url", url + suffix])
    assert json.loads(result.output) == [WORKER]


def test_what_is_no_gateway_is_said_to_be_none(url: str) -> None:
    result = CliRunner().invoke(app, ["workers", "--url", url + "/elsewhere"])
    assert result.exit_code == 1
    assert "is not a Baton gateway" in result.output


def test_a_gateway_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(app, ["workers", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:1" in result.output


def test_a_worker_that_has_not_reported_shows_dashes() -> None:
    assert load_cells({"num_blocks": 7}) == ("-", "-/7")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("10.0.0.1", "http://10.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_the_default_url_is_where_the_settings_put_the_gateway(host: str, url: str) -> None:
    assert own_url(GatewaySettings(host=host)) == url
