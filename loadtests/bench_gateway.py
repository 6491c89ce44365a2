"""What a token and a short request cost the gateway, against a bare uvicorn app in the same run.

    make bench-gateway

Paced streams: 64 streams, a token each 10 ms. First tokens: of one-token streams beside those, from
the request's last byte to the answer's first event, as their clients see it; and what the gateway
adds, for each request the same without the time that its worker had it (see `first_tokens`: gRPC
between the two is the gateway's part, a step of the worker's that runs already is not). The bare
app has no worker, and its first events wait for nobody. Short requests: non-streamed chat, 32
prompt tokens, 8 output tokens, 32 keep-alive connections. Frames: the same paced streams, in frames
of 1, 4 and 16 sequences, tell what a frame costs and what a token in it. CPU time is the gateway
process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from client import Outcome, chat, short_requests, stream
from first_tokens import read_first_tokens
from gateway import HERE, free_port, gateway, mock_workers, process, wait_until
from measure import cpu_seconds, hardware, save

STEP_MS = 10.0
STREAMS = 64
CONNECTIONS = 32
CHAT = "/v1/chat/completions"
# Between two of the streams whose first tokens are timed.
PAUSE_S = 0.005
# Of a busy decode worker: a step with so many sequences takes so long.
BUSY_STEP_MS = 25.0
BUSY_SEQUENCES = 32


class Server(NamedTuple):
    """A process under test, and where it streams."""

    url: str
    path: str
    pid: int


async def paced(server: Server, num_tokens: int) -> Outcome:
    outcome = Outcome()
    body = chat(20, num_tokens, streamed=True)
    url, path = server.url, server.path
    await asyncio.gather(*(stream(url, path, body, outcome) for _ in range(STREAMS)))
    return checked(outcome)


def checked(outcome: Outcome) -> Outcome:
    if outcome.failures:
        raise SystemExit(f"{len(outcome.failures)} requests failed: {outcome.failures[0]}")
    return outcome


def cpu_per_million(server: Server, num_tokens: int) -> float:
    """CPU seconds per million tokens; a short run first warms the server up."""
    asyncio.run(paced(server, 50))
    before = cpu_seconds(server.pid)
    asyncio.run(paced(server, num_tokens))
    return (cpu_seconds(server.pid) - before) / (STREAMS * num_tokens) * 1e6


class FirstTokens(NamedTuple):
    """Quantiles in milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> FirstTokens:
        p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
        return cls(float(p50), float(p99))


def first_events(server: Server, count: int) -> list[tuple[str, float]]:
    """Id of, and seconds to, the first event of one-token streams, one after the other beside the
    paced ones."""

    async def run() -> Outcome:
        # More tokens than there is time for.
        beside = asyncio.create_task(paced(server, 4000))
        outcome = Outcome()
        try:
            for _ in range(count):
                await asyncio.sleep(PAUSE_S)
                await stream(server.url, server.path, chat(20, 1, streamed=True), outcome)
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
        return checked(outcome)

    return asyncio.run(run()).first_events


def cpu_per_thousand_short(server: Server, per_connection: int) -> tuple[float, float]:
    """CPU seconds per thousand short requests, and requests per second."""

    async def run(count: int) -> Outcome:
        outcome = Outcome()
        body = chat(20, 8, streamed=False)
        await asyncio.gather(
            *(
                short_requests(server.url, server.path, body, count, outcome)
                for _ in range(CONNECTIONS)
            )
        )
        return checked(outcome)

    asyncio.run(run(3))
    before, start = cpu_seconds(server.pid), time.monotonic()
    outcome = asyncio.run(run(per_connection))
    spent, wall = cpu_seconds(server.pid) - before, time.monotonic() - start
    return spent / outcome.requests * 1e3, outcome.requests / wall


class FrameCost(NamedTuple):
    """Microseconds of a frame, and of each token in it."""

    frame_us: float
    token_us: float

    @classmethod
    def of(cls, us_per_token: dict[int, float]) -> FrameCost:
        """Fitted to the cost of a token by the number of sequences in a frame."""
        features = np.array([(1 / sequences, 1.0) for sequences in us_per_token])
        (frame_us, token_us), *_ = np.linalg.lstsq(features, np.array([*us_per_token.values()]))
        return cls(float(frame_us), float(token_us))

    @property
    def num_busy_workers(self) -> int:
        """So many fill one core: what one gateway process can hold."""
        return int(BUSY_STEP_MS * 1e3 / (self.frame_us + BUSY_SEQUENCES * self.token_us))


def show(name: str, value: str) -> None:
    print(f"{name:44} {value}", flush=True)


def listens(port: int) -> bool:
    """Raises OSError when nobody does."""
    with socket.create_connection(("127.0.0.1", port)):
        return True


def bench_bare(options: argparse.Namespace) -> tuple[float, FirstTokens]:
    """CPU seconds per million tokens, and first tokens."""
    port = free_port()
    with process(str(HERE / "bare_sse.py"), str(port), str(STEP_MS)) as child:
        wait_until(lambda: listens(port), "bare")
        bare = Server(f"http://127.0.0.1:{port}", "/", child.pid)
        cost = cpu_per_million(bare, options.tokens)
        first = FirstTokens.of([seconds for _, seconds in first_events(bare, options.first)])
    show("bare uvicorn SSE app", f"{cost:6.1f} CPU-s per million tokens")
    show("bare uvicorn SSE app, first token", f"{first.p50:6.2f} ms p50, {first.p99:.2f} ms p99")
    return cost, first


def bench_pair(
    options: argparse.Namespace, bare_cost: float, bare_first: FirstTokens
) -> dict[str, float]:
    """Through one prefill and two decode workers."""
    # A handoff for each request, also where a decode worker would be as fast alone.
    with (
        tempfile.TemporaryDirectory(prefix="baton-bench-") as folder,
        gateway(ROUTER__DISAGGREGATION="always") as front,
        mock_workers(
            front,
            {"prefill": 1, "decode": 2},
            step_ms=STEP_MS,
            first_tokens=str(Path(folder) / "first-tokens"),
        ),
    ):
        server = Server(front.url, CHAT, front.pid)
        cost = cpu_per_million(server, options.tokens)
        show("gateway, 1 prefill + 2 decode", f"{cost:6.1f}   ({cost / bare_cost:.2f} x bare)")
        events = first_events(server, options.first)
        workers = read_first_tokens(Path(folder) / "first-tokens")
        whole = FirstTokens.of([seconds for _, seconds in events])
        added = FirstTokens.of([seconds - workers[answer] for answer, seconds in events])
        show("gateway, first token", f"{whole.p50:6.2f} ms p50, {whole.p99:.2f} ms p99")
        p50_x, p99_x = added.p50 / bare_first.p50, added.p99 / bare_first.p99
        show("added to the worker's time, p50", f"{added.p50:6.2f} ms ({p50_x:.1f} x bare)")
        show("added to the worker's time, p99", f"{added.p99:6.2f} ms ({p99_x:.1f} x bare)")
        short, rate = cpu_per_thousand_short(server, options.requests)
        show("gateway, short requests", f"{short:6.2f} CPU-s per thousand, {rate:.0f}/s")
    return {
        "gateway_cpu_s_per_million_tokens, 1 prefill + 2 decode": round(cost, 2),
        "gateway_first_token_p50_ms": round(whole.p50, 2),
        "gateway_first_token_p99_ms": round(whole.p99, 2),
        "gateway_added_first_token_p50_ms": round(added.p50, 2),
        "gateway_added_first_token_p99_ms": round(added.p99, 2),
        "gateway_cpu_s_per_thousand_short_requests": round(short, 3),
    }


def bench_frames(options: argparse.Namespace, bare_cost: float) -> dict[str, float]:
    """Through workers that do everything, with ever more sequences each."""
    costs: dict[int, float] = {}
    figures: dict[str, float] = {}
    for sequences in (1, 4, 16):
        with (
            gateway() as front,
            mock_workers(front, {"any": STREAMS // sequences}, step_ms=STEP_MS),
        ):
            cost = cpu_per_million(Server(front.url, CHAT, front.pid), options.tokens)
        costs[sequences] = cost
        label = f"{sequences} sequence{'s' if sequences > 1 else ''} a frame"
        figures[f"gateway_cpu_s_per_million_tokens, {label}"] = round(cost, 2)
        show(f"gateway, {label}", f"{cost:6.1f}   ({cost / bare_cost:.2f} x bare)")
    frame = FrameCost.of(costs)
    show("a frame, and each token in it", f"{frame.frame_us:6.0f} us, {frame.token_us:.0f} us")
    show(
        f"workers of {BUSY_SEQUENCES} sequences, {BUSY_STEP_MS:g} ms a step",
        f"{frame.num_busy_workers:6}   fill the core of one gateway process",
    )
    return figures | {
        "frame_us": round(frame.frame_us, 1),
        "token_in_frame_us": round(frame.token_us, 1),
        "busy_workers_per_process": frame.num_busy_workers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000, help="tokens of each paced stream")
    parser.add_argument("--first", type=int, default=500, help="first tokens that are timed")
    parser.add_argument("--requests", type=int, default=60, help="short requests per connection")
    parser.add_argument("--save", action="store_true", help="write results/bench-gateway.json")
    options = parser.parse_args()
    print(f"{hardware()}; {STREAMS} streams, a token each {STEP_MS:g} ms")
    cost, first = bench_bare(options)
    figures: dict[str, Any] = {
        "bare_cpu_s_per_million_tokens": round(cost, 2),
        "bare_first_token_p50_ms": round(first.p50, 2),
        "bare_first_token_p99_ms": round(first.p99, 2),
        **bench_pair(options, cost, first),
        **bench_frames(options, cost),
    }
    if options.save:
        print("saved", save("bench-gateway", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
