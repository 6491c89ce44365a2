"""Baton as a Ray Serve application, started by Serve's own command."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from baton.cluster.processes import in_session, kill_session
from fakes.free_port import free_port
from fakes.heard_signals import heard

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

WAIT_S = 120.0


def test_serve_runs_the_gateway_and_its_workers() -> None:
    port = free_port()
    # Ray's sockets live in its folder, and pytest's is too deep for them.
    with tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp") as folder:
        config = Path(folder) / "serve.yaml"
        config.write_text(
            f"http_options: {{host: 127.0.0.1, port: {port}}}\n"
            "applications:\n"
            "- import_path: baton.cluster.serve_app:app\n"
            "  args: {engine.kind: mock, pools.decode: '2'}\n"
        )
        with (Path(folder) / "out").open("wb") as out, heard(signal.SIGINT):
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "serve"), "run", str(config)],
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    # A Ray of its own, whatever else runs on this machine.
                    "RAY_ADDRESS": "local",
                    "RAY_TMPDIR": folder,
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": secrets.token_hex(32),
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                },
            )
        try:
            answers(process, f"http://127.0.0.1:{port}", Path(folder) / "out")
            process.send_signal(signal.SIGINT)
            process.wait(WAIT_S)
        finally:
            kill_session(process.pid)
            process.wait()
        assert in_session(process.pid) == []


def answers(process: subprocess.Popen[bytes], url: str, out: Path) -> None:
    """Wait until it serves, then ask for a whole answer and for a stream."""
    deadline = time.monotonic() + WAIT_S
    status = 0
    while status != 200:
        assert process.poll() is None and time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)
        with contextlib.suppress(httpx.TransportError):
            status = httpx.get(f"{url}/ready", timeout=10).status_code
    workers = httpx.get(f"{url}/v1/baton/workers").json()["data"]
    assert sorted(w["id"] for w in workers) == ["decode-0", "decode-1", "prefill-0"]
    body = {"model": "baton-tiny", "prompt": "Hello", "max_tokens": 4}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=30).json()
    assert answer["usage"]["completion_tokens"] == 4
    body["stream"] = True
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
