"""What a token and a short request cost the gateway, against a bare uvicorn app in the same run.

    make bench-gateway

Paced streams: 64 streams, a token each 10 ms. Short requests: non-streamed chat, 32 prompt tokens,
8 output tokens, 32 keep-alive connections. Mock workers; CPU time is the gateway process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from pathlib import Path
from typing import Any

from client import Outcome, chat, short_requests, stream
from gateway import HERE, free_port, gateway, mock_workers, process, wait_until
from measure import cpu_seconds, hardware, save

STEP_MS = 10.0
STREAMS = 64
CONNECTIONS = 32


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
        # A handoff for each request, also where a decode worker would be as fast alone.
        with (
            gateway(ROUTER__DISAGGREGATION="always") as front,
            mock_workers(front, pools, step_ms=STEP_MS),
        ):
            cost = cpu_per_million(front.url, path, front.pid, options.tokens)
            figures[f"gateway_cpu_s_per_million_tokens, {label}"] = round(cost, 2)
            print(f"{'gateway, ' + label:44} {cost:6.1f}   ({cost / baseline:.2f} x bare)")
            if "decode" in pools:
                short, rate = cpu_per_thousand_short(front.url, front.pid, options.requests)
                figures["gateway_cpu_s_per_thousand_short_requests"] = round(short, 3)
                print(
                    f"{'gateway, short requests':44} {short:6.2f} CPU-s per thousand, {rate:.0f}/s"
                )
    if options.save:
        print("saved", save("bench-gateway", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
