"""Many open streams through one gateway process: its memory for each, and how evenly they advance.

    make bench-streams

5,000 streams, a token each 500 ms, from mock workers. Memory is what the gateway's resident set has
grown by, from a warm process to all streams open; gaps are measured by the client, between events.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client import chat, post
from gateway import gateway, mock_workers
from measure import hardware, resident_bytes, save

STEP_MS = 500.0
# Connections that are opened at once.
OPENING = 100


class Stream:
    """One client: when its events came."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.failure = ""
        self.is_open = asyncio.Event()

    async def run(self, url: str, body: dict[str, Any], opening: asyncio.Semaphore) -> None:
        address = urlsplit(url)
        async with opening:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(post("/v1/chat/completions", body))
            head = await reader.readuntil(b"\r\n\r\n")
        self.is_open.set()
        if b" 200 " not in head:
            self.failure = head.decode(errors="replace")
            return
        tail, last = b"", time.monotonic()
        while True:
            data = await reader.read(65536)
            now = time.monotonic()
            self.gaps.append(now - last)
            last = now
            if b"data: [DONE]" in tail + data:
                break
            if not data:
                self.failure = "closed early"
                break
            tail = data[-16:]
        writer.close()


async def streams(url: str, pid: int, count: int, tokens: int) -> tuple[list[Stream], int]:
    """The streams, ended, and the resident bytes of `pid` while all of them were open."""
    body = chat(20, tokens, streamed=True)
    opening = asyncio.Semaphore(OPENING)
    found = [Stream() for _ in range(count)]
    tasks = [asyncio.create_task(one.run(url, body, opening)) for one in found]
    await asyncio.gather(*(one.is_open.wait() for one in found))
    resident = resident_bytes(pid)
    await asyncio.gather(*tasks)
    return found, resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each stream")
    parser.add_argument("--save", action="store_true", help="write results/bench-streams.json")
    options = parser.parse_args()
    needed = options.streams + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, needed), hard))
    engine = {"step_ms": STEP_MS, "max_sequences": options.streams, "kv_blocks": 2**17}
    with gateway() as front, mock_workers(front, {"any": 4}, **engine):
        url, pid = front.url, front.pid
        asyncio.run(streams(url, pid, 50, 4))
        before = resident_bytes(pid)
        found, resident = asyncio.run(streams(url, pid, options.streams, options.tokens))
    failures = [one.failure for one in found if one.failure]
    if failures:
        raise SystemExit(f"{len(failures)} streams failed: {failures[0]}")
    # The first of each is its wait for the worker, not a gap between tokens.
    gaps = sorted(gap for one in found for gap in one.gaps[1:])
    figures = {
        "streams": options.streams,
        "memory_kb_per_stream": round((resident - before) / options.streams / 1e3, 1),
        "gap_s_p50": round(gaps[len(gaps) // 2], 3),
        "gap_s_p99": round(gaps[int(len(gaps) * 0.99)], 3),
        "gap_s_max": round(gaps[-1], 3),
    }
    print(f"{hardware()}; {options.streams} streams, a token each {STEP_MS:g} ms")
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if options.save:
        print("saved", save("bench-streams", figures).relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
