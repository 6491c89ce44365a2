"""What a token and a short request cost the gateway, against a bare uvicorn app in the same run.

    make bench-gateway

Paced streams: 64 streams, a token each 10 ms. Short requests: non-streamed chat, 32 prompt tokens,
8 output tokens, 32 keep-alive connections. Mock workers; CPU time is the gateway process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from client import Outcome, short_requests, stream
from measure import cpu_seconds, hardware, save

HERE = Path(__file__).parent
STEP_MS = 10.0
STREAMS = 64
CONNECTIONS = 32


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str, **kwargs: Any) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended on the way out."""
    child = subprocess.Popen([sys.executable, *command], text=True, **kwargs)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=20)


def wait_until(done: Any, what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if done():
                return
        time.sleep(0.1)
    raise SystemExit(f"gave up waiting for {what}")


@contextlib.contextmanager
def gateway(pools: dict[str, int]) -> Iterator[tuple[str, int]]:
    """A gateway with mock workers; yields (url, pid)."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        token_file = Path(folder) / "token"
        front = stack.enter_context(
            process(
                *("-m", "baton.cli.main", "gateway", "--port", "0", "--grpc-port", "0", "--json"),
                *("--token-file", str(token_file), "--log-level", "error"),
                stdout=subprocess.PIPE,
            )
        )
        assert front.stdout
        addresses = json.loads(front.stdout.readline())
        for role, count in pools.items():
            wanted = {
                "store_url": addresses["store"],
                "token": token_file.read_text().strip(),
                "role": role,
                "count": count,
                "step_ms": STEP_MS,
            }
            stack.enter_context(
                process(str(HERE / "worker_farm.py"), json.dumps(wanted), stdin=subprocess.PIPE)
            )
        url = addresses["http"]

        def ready() -> bool:
            workers = httpx.get(f"{url}/v1/baton/workers", timeout=5).json()["data"]
            return len([w for w in workers if w["state"] == "ready"]) == sum(pools.values())

        wait_until(ready, "mock workers")
        yield url, front.pid


def chat(words: int, max_tokens: int, *, streamed: bool) -> dict[str, Any]:
    return {
        "model": "baton-tiny",
        "messages": [{"role": "user", "content": " ".join(["the"] * words)}],
        "max_tokens": max_tokens,
        "stream": streamed,
        "ignore_eos": True,
    }


async def paced(url: str, path: str, num_tokens: int) -> Outcome:
    outcome = Outcome()
    body = chat(20, num_tokens, streamed=True)
    await asyncio.gather(*(stream(url, path, body, outcome) for _ in range(STREAMS)))
    return outcome


def cpu_per_million(url: str, path: str, pid: int, num_tokens: int) -> float:
    """CPU seconds of process `pid` per million tokens; a short run first warms it up."""
    asyncio.run(paced(url, path, 50))
    before = cpu_seconds(pid)
    outcome = asyncio.run(paced(url, path, num_tokens))
    spent = cpu_seconds(pid) - before
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} streams failed: {outcome.failures[0]}")
    return spent / (STREAMS * num_tokens) * 1e6


def cpu_per_thousand_short(url: str, pid: int, per_connection: int) -> tuple[float, float]:
    """CPU seconds of process `pid` per thousand short requests, and requests per second."""

    async def run(count: int) -> Outcome:
        outcome = Outcome()
        body = chat(20, 8, streamed=False)
        path = "/v1/chat/completions"
        await asyncio.gather(
            *(short_requests(url, path, body, count, outcome) for _ in range(CONNECTIONS))
        )
        return outcome

    asyncio.run(run(3))
    before, start = cpu_seconds(pid), time.monotonic()
    outcome = asyncio.run(run(per_connection))
    spent, wall = cpu_seconds(pid) - before, time.monotonic() - start
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} requests failed: {outcome.failures[0]}")
    return spent / outcome.requests * 1e3, outcome.requests / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000, help="tokens of each paced stream")
    parser.add_argument("--requests", type=int, default=60, help="short requests per connection")
    parser.add_argument("--save", action="store_true", help="write results/bench-gateway.json")
    options = parser.parse_args()
    figures: dict[str, Any] = {}

    port = free_port()
    with process(str(HERE / "bare_sse.py"), str(port), str(STEP_MS)) as bare:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, "bare")
        baseline = cpu_per_million(url, "/", bare.pid, options.tokens)
    figures["bare_cpu_s_per_million_tokens"] = round(baseline, 2)
    path = "/v1/chat/completions"
    print(f"{hardware()}; {STREAMS} streams, a token each {STEP_MS:g} ms")
    print(f"{'bare uvicorn SSE app':44} {baseline:6.1f} CPU-s per million tokens")

    for label, pools in [
        ("1 prefill + 2 decode", {"prefill": 1, "decode": 2}),
        ("1 sequence a frame", {"any": STREAMS}),
        ("4 sequences a frame", {"any": STREAMS // 4}),
        ("16 sequences a frame", {"any": STREAMS // 16}),
    ]:
        with gateway(pools) as (url, pid):
            cost = cpu_per_million(url, path, pid, options.tokens)
            figures[f"gateway_cpu_s_per_million_tokens, {label}"] = round(cost, 2)
            print(f"{'gateway, ' + label:44} {cost:6.1f}   ({cost / baseline:.2f} x bare)")
            if "decode" in pools:
                short, rate = cpu_per_thousand_short(url, pid, options.requests)
                figures["gateway_cpu_s_per_thousand_short_requests"] = round(short, 3)
                print(
                    f"{'gateway, short requests':44} {short:6.2f} CPU-s per thousand, {rate:.0f}/s"
                )
    if options.save:
        print("saved", save("bench-gateway", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
