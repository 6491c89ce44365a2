"""`baton serve` as a user sees it: one command up, one Ctrl-C down, and nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

WAIT_S = 90.0


class Served:
    """A `baton serve` with mock workers, and every process that comes of it."""

    def __init__(self, folder: Path, *typed: str) -> None:
        # Inherited by everything that it starts, whatever session or parent that has.
        self._mark = f"BATON_TEST_RUN={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._out = folder / "out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "baton.cli.main", "serve"),
                    *("--engine", "mock", "--port", "0", "--grpc-port", "0"),
                    *("--token-file", str(folder / "token"), *typed),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, name: value},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._out.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        self.until(lambda: text in self.output or self.process.poll() is not None)
        assert text in self.output, self.output

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    @property
    def url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output)
        assert found is not None, self.output
        return found[0]

    def processes(self) -> dict[int, str]:
        """Those of this deployment that run: pid to command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self._mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def workers(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = httpx.get(f"{self.url}/v1/baton/workers").json()["data"]
        return [worker for worker in listed if worker["state"] == "ready"]

    def end(self) -> None:
        for pid in [self.process.pid, *self.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def served(folder: Path, *typed: str) -> Iterator[Served]:
    running = Served(folder, *typed)
    try:
        yield running
    finally:
        running.end()


def chat(url: str, max_tokens: int) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello!"}]
    body = {"model": "baton-tiny", "messages": messages, "max_tokens": max_tokens}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def test_a_deployment_from_start_to_ctrl_c(tmp_path: Path) -> None:
    with served(tmp_path, "--prefill", "1", "--decode", "1") as it:
        it.wait_for("\ncurl ")
        # The line to paste is a whole command for this very deployment.
        pasted = shlex.split(it.output.splitlines()[-1])
        assert pasted[0] == "curl"
        assert pasted[1] == f"{it.url}/v1/chat/completions"
        answer = httpx.post(pasted[1], json=json.loads(pasted[-1]), timeout=30)
        assert answer.status_code == 200, answer.text

        baton = [sys.executable, "-m", "baton.cli.main"]
        listing = subprocess.check_output([*baton, "workers", "--json", "--url", it.url])
        assert sorted(worker["id"] for worker in json.loads(listing)) == ["decode-0", "prefill-0"]

        taken = it.url.rpartition(":")[2]
        second = subprocess.run([*baton, "serve", "--port", taken], capture_output=True, text=True)
        assert second.returncode == 2
        assert f"127.0.0.1:{taken}: the port is in use" in second.stderr

        worker = it.workers()[0]
        os.kill(worker["pid"], signal.SIGKILL)
        it.until(
            lambda: {w["pid"] for w in it.workers() if w["id"] == worker["id"]} != {worker["pid"]}
        )
        it.until(lambda: len(it.workers()) == 2)
        assert chat(it.url, 4).status_code == 200

        body = {"model": "baton-tiny", "prompt": "Hello", "max_tokens": 8000, "stream": True}
        with httpx.stream("POST", f"{it.url}/v1/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: {")
            it.process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert "shutting down" in error["message"]
        assert it.process.wait(WAIT_S) == 0
        assert it.processes() == {}


def test_streams_outlive_rays_head(tmp_path: Path) -> None:
    with served(tmp_path, "--aggregated") as it:
        it.wait_for("\ncurl ")
        [old] = it.workers()
        body = {"model": "baton-tiny", "prompt": "Hello", "max_tokens": 8000, "stream": True}
        with httpx.stream("POST", f"{it.url}/v1/completions", json=body, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            [head] = [pid for pid, command in it.processes().items() if "gcs_server" in command]
            os.kill(head, signal.SIGKILL)

            def replaced() -> bool:
                assert next(lines) is not None
                return any(worker["id"] != old["id"] for worker in it.workers())

            it.until(replaced)
            assert next(lines) is not None
        assert chat(it.url, 4).status_code == 200
        # With its last stream gone the old worker leaves.
        it.until(lambda: old["pid"] not in it.processes())
        assert [worker["id"] for worker in it.workers()] == ["any-0-r1"]

        # A second Ctrl-C does not wait for streams.
        with httpx.stream("POST", f"{it.url}/v1/completions", json=body, timeout=30) as stream:
            next(stream.iter_lines())
            it.process.send_signal(signal.SIGINT)
            it.process.send_signal(signal.SIGTERM)
            assert it.process.wait(WAIT_S) == 1
        it.until(lambda: it.processes() == {})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_an_interrupted_start_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    with served(tmp_path) as it:
        it.until(lambda: any("gcs_server" in command for command in it.processes().values()))
        it.process.send_signal(number)
        assert it.process.wait(WAIT_S) == status
        it.until(lambda: it.processes() == {})
