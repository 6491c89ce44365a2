"""A gateway in a process of its own, and mock workers for it: what the benches over HTTP run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Gateway:
    """A running one. `store` and `token` are for workers and keys."""

    url: str
    pid: int
    store: str
    token_file: Path

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str, **kwargs: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python child that is ended on the way out."""
    child = subprocess.Popen([sys.executable, *command], text=True, **kwargs)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=40)


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Poll. Ends the bench when it takes too long; what does not answer yet counts as not done."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if done():
                return
        time.sleep(0.1)
    raise SystemExit(f"gave up waiting for {what}")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's, with these settings (`ROUTER__DISAGGREGATION`) in place of its own."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    return mine | {f"BATON_{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def gateway(**settings: str) -> Iterator[Gateway]:
    """A gateway without workers; `settings` as `environment` has them."""
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as folder:
        token_file = Path(folder) / "token"
        with process(
            *("-m", "baton.cli.main", "gateway", "--port", "0", "--grpc-port", "0", "--json"),
            *("--token-file", str(token_file), "--log-level", "error"),
            stdout=subprocess.PIPE,
            env=environment(settings),
        ) as front:
            assert front.stdout
            addresses = json.loads(front.stdout.readline())
            yield Gateway(addresses["http"], front.pid, addresses["store"], token_file)


@contextlib.contextmanager
def mock_workers(
    front: Gateway,
    pools: Mapping[str, int],
    headers: Mapping[str, str] | None = None,
    **engine: Any,
) -> Iterator[None]:
    """So many of each role, ready; a process for each role. `engine`: see worker_farm.

    `headers` are for a gateway that asks for keys.
    """
    with contextlib.ExitStack() as stack:
        for role, count in pools.items():
            wanted = {
                **{"store_url": front.store, "token": front.token, "role": role, "count": count},
                **engine,
            }
            stack.enter_context(
                process(str(HERE / "worker_farm.py"), json.dumps(wanted), stdin=subprocess.PIPE)
            )
        await_workers(front, sum(pools.values()), headers)
        yield


def await_workers(front: Gateway, count: int, headers: Mapping[str, str] | None = None) -> None:
    """Wait until so many are ready."""

    def ready() -> bool:
        answer = httpx.get(f"{front.url}/v1/baton/workers", headers=headers, timeout=5)
        workers = answer.raise_for_status().json()["data"]
        return len([w for w in workers if w["state"] == "ready"]) == count

    wait_until(ready, f"{count} workers")
