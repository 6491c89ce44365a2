"""`baton serve` as a user runs it: Ray, two pools, a real model; killed workers, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MARK = "BATON_TEST_SERVE_MARK"
START_S = 90.0
CHAT = [{"role": "user", "content": "Tell me a story about a river."}]


class Serving:
    """One `baton serve`; its descendants are known by a variable in their environment."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / "serve.log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "baton.cli.main", "serve"),
                    *("--port", "0", "--grpc-port", "0", "--token-file", str(folder / "token")),
                    *flags,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )
        self.wait_for("readiness", self._find_url, START_S)

    def _find_url(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        found = re.search(r"Ready in .*?(http://\S+) \(", self.output.read_text())
        if found:
            self.url = found[1]
        return found is not None

    def wait_for(self, what: str, done: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what}:\n{self.output.read_text()}")
            time.sleep(0.05)

    def workers(self) -> dict[str, dict[str, Any]]:
        workers = httpx.get(f"{self.url}/v1/baton/workers", timeout=10).json()["data"]
        return {worker["id"]: worker for worker in workers}

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def descendants(self) -> dict[int, str]:
        """Pid to command line of every process that this deployment started, itself included."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[pid] = command.decode(errors="replace")
        return found

    def stop(self) -> float:
        """Ctrl-C; the seconds until the process is gone."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        return time.monotonic() - started

    def kill_all(self) -> None:
        for pid in self.descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=10)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    running = Serving(tmp_path_factory.mktemp("serve"), "--dtype", "float64")
    try:
        yield running
    finally:
        running.kill_all()


class Stream(threading.Thread):
    """A streamed chat, read on a thread."""

    def __init__(self, client: openai.OpenAI, **parameters: Any) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._parameters = parameters
        self.text = ""
        self.num_chunks = 0
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            chunks: Any = self._client.chat.completions.create(
                model="baton-tiny",
                messages=CHAT,  # type: ignore[arg-type]
                stream=True,
                **self._parameters,
            )
            for chunk in chunks:
                for choice in chunk.choices:
                    self.text += choice.delta.content or ""
                    self.finish_reason = choice.finish_reason
                self.num_chunks += 1
        except Exception as error:
            self.error = error


LONG: dict[str, Any] = {
    "max_tokens": 1500,
    "temperature": 1.0,
    "seed": 5,
    "extra_body": {"ignore_eos": True},
}


def test_workers_are_listed_as_json(serving: Serving) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "baton.cli.main", "workers", "--url", serving.url, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    listed = json.loads(done.stdout)
    assert {worker["role"] for worker in listed} == {"prefill", "decode"}


def test_a_killed_worker_is_replaced_under_an_open_stream(serving: Serving) -> None:
    undisturbed = Stream(serving.client(), **LONG)
    undisturbed.join(120)
    assert undisturbed.finish_reason == "length"

    for victim in ("decode-0", "prefill-0"):
        before = serving.workers()[victim]
        stream = Stream(serving.client(), **LONG)
        serving.wait_for("tokens", lambda stream=stream: stream.num_chunks > 20)
        os.kill(before["pid"], signal.SIGKILL)
        stream.join(120)
        assert stream.error is None
        assert stream.text == undisturbed.text, "a gap or a repeat"

        def is_back(victim: str = victim, epoch: str = before["epoch"]) -> bool:
            now = serving.workers().get(victim)
            return now is not None and now["state"] == "ready" and now["epoch"] != epoch

        serving.wait_for(f"another {victim}", is_back)
    after = Stream(serving.client(), **LONG)
    after.join(120)
    assert after.text == undisturbed.text


def test_streams_outlive_rays_head(serving: Serving) -> None:
    epochs = {worker["epoch"] for worker in serving.workers().values()}
    stream = Stream(serving.client(), **{**LONG, "max_tokens": 4000})
    serving.wait_for("tokens", lambda: stream.num_chunks > 20)
    [head] = [pid for pid, command in serving.descendants().items() if "gcs_server" in command]
    os.kill(head, signal.SIGKILL)
    stream.join(180)
    assert stream.error is None
    assert stream.finish_reason == "length"

    def has_new_workers() -> bool:
        ready = [w for w in serving.workers().values() if w["state"] == "ready"]
        return len([w for w in ready if w["epoch"] not in epochs]) >= 2

    serving.wait_for("new workers", has_new_workers, 120)
    answer = serving.client().chat.completions.create(
        model="baton-tiny",
        messages=CHAT,  # type: ignore[arg-type]
        max_tokens=5,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_ctrl_c_ends_streams_with_an_error_and_leaves_no_process(serving: Serving) -> None:
    stream = Stream(serving.client(), **{**LONG, "max_tokens": 7000})
    serving.wait_for("tokens", lambda: stream.num_chunks > 5)
    seconds = serving.stop()
    stream.join(10)
    assert isinstance(stream.error, openai.APIError)
    assert "shutting down" in str(stream.error)
    assert serving.process.returncode == 0, serving.output.read_text()
    assert serving.descendants() == {}
    # Generous: the promise of 5 s is for a machine that does nothing else.
    assert seconds < 20


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [
                *(sys.executable, "-m", "baton.cli.main", "serve", "--port", port),
                *("--grpc-port", "0", "--token-file", str(tmp_path / "token")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert port in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
