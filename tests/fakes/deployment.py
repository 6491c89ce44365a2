"""A real deployment for tests: a gateway process and worker processes, started by the CLI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 90.0
# Programs that run a worker which misbehaves, see their docstrings.
MORTAL_WORKER = Path(__file__).parent / "mortal_worker.py"
FAULTY_WORKER = Path(__file__).parent / "faulty_worker.py"


def wait_for(what: str, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return once `done()`; fails, naming what was waited for, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


class Deployment:
    """`baton gateway` and any number of `baton worker`s. Ends only what it started."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None) -> None:
        self._flags = list(flags)
        self._dir = Path(tempfile.mkdtemp(prefix="baton-test-"))
        self.token_file = self._dir / "token"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BATON_")},
            # There is no load balancer to wait for.
            "BATON_GATEWAY__UNREADY_WAIT_S": "0",
            # Idle decode workers would compute the prompts themselves, and nothing be handed over.
            "BATON_ROUTER__DISAGGREGATION": "always",
            **(environment or {}),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.gateway = self._start(
            "gateway", "gateway", "--port", "0", "--grpc-port", "0", "--json"
        )
        addresses = self._gateway_addresses()
        self.url: str = addresses["http"]
        self.grpc: str = addresses["grpc"]
        self.store: str = addresses["store"]

    def _start(
        self,
        name: str,
        *command: str,
        program: Sequence[str] = ("-m", "baton.cli.main"),
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        log = (self._dir / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [
                sys.executable,
                *program,
                *command,
                "--token-file",
                str(self.token_file),
                *self._flags,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**self._environment, **(environment or {})},
            start_new_session=True,
        )
        log.close()
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self._dir / f"{name}.log").read_text(errors="replace")

    def _gateway_addresses(self) -> dict[str, str]:
        """The gateway prints one JSON line with its addresses under --json."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.log("gateway").splitlines():
                with contextlib.suppress(ValueError):
                    document = json.loads(line)
                    if isinstance(document, dict) and "http" in document:
                        return document
            if self.gateway.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("the gateway did not start:\n" + self.log("gateway"))

    def start_worker(
        self,
        worker_id: str,
        role: str,
        *flags: str,
        mortal: str = "",
        faults: str = "",
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """With `mortal`, one that dies at this step; with `faults`, one that hears of them there.

        See `mortal_worker` and `faulty_worker`. `environment` is for this worker alone.
        """
        program: Sequence[str] = ("-m", "baton.cli.main")
        if mortal or faults:
            program = (str(MORTAL_WORKER), mortal) if mortal else (str(FAULTY_WORKER), faults)
        return self._start(
            worker_id,
            "worker",
            "--role",
            role,
            "--worker-id",
            worker_id,
            "--store",
            self.store,
            *flags,
            program=program,
            environment=environment,
        )

    def start_workers(self, *, prefill: int = 0, decode: int = 0, any_: int = 0) -> None:
        for count, role in ((prefill, "prefill"), (decode, "decode"), (any_, "any")):
            for i in range(count):
                self.start_worker(f"{role}-{i}", role)
        self.wait_ready(prefill + decode + any_)

    def workers(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/v1/baton/workers", timeout=10)
        answer.raise_for_status()
        workers: list[dict[str, Any]] = answer.json()["data"]
        return workers

    def wait_ready(self, num_workers: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            dead = [n for n, p in self.processes.items() if p.poll() is not None]
            assert not dead, "\n".join(f"{n} exited:\n{self.log(n)}" for n in dead)
            # A session is up a moment before its first load report.
            ready = [
                w for w in self.workers() if w["state"] == "ready" and "free_blocks" in w["load"]
            ]
            if len(ready) >= num_workers:
                return
            time.sleep(0.1)
        raise AssertionError(f"workers not ready: {self.workers()}")

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(sig)
        if sig == signal.SIGKILL:
            self.processes.pop(name).wait()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def deployment(*flags: str, **kwargs: Any) -> Iterator[Deployment]:
    running = Deployment(*flags, **kwargs)
    try:
        yield running
    finally:
        running.close()
