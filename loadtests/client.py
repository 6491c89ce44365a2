"""A load client that costs little: plain sockets, counting SSE events instead of parsing them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Outcome:
    """What came back from many requests.

    `first_events` are of streams: the answer's id, and seconds from the request on.
    """

    requests: int = 0
    events: int = 0
    first_events: list[tuple[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def chat(words: int, max_tokens: int, *, streamed: bool) -> dict[str, Any]:
    """The body of a chat with a prompt of so many words."""
    return {
        "model": "baton-tiny",
        "messages": [{"role": "user", "content": " ".join(["the"] * words)}],
        "max_tokens": max_tokens,
        "stream": streamed,
        "ignore_eos": True,
    }


def post(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of a request."""
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


async def stream(url: str, path: str, body: dict[str, Any], outcome: Outcome) -> None:
    """One streamed request, read to its `data: [DONE]`."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(post(path, body))
        sent_at = time.monotonic()
        tail = b""
        status = b""
        has_begun = False
        while True:
            data = await reader.read(65536)
            if not data:
                outcome.failures.append(f"closed early: {(status + tail)[-300:]!r}")
                return
            if not status:
                status = data.split(b"\r\n", 1)[0]
                if b" 200 " not in status:
                    outcome.failures.append(data[:400].decode(errors="replace"))
                    return
            # An event may be cut in two by a read: count in what is left of the last one too.
            window = tail + data
            num_events = window.count(b"data: {") - tail.count(b"data: {")
            outcome.events += num_events
            if num_events and not has_begun:
                has_begun = True
                seconds = time.monotonic() - sent_at
                outcome.first_events.append((_answer_id(window), seconds))
            if b"data: [DONE]" in window:
                break
            tail = window[-16:]
        outcome.requests += 1
    finally:
        writer.close()


def _answer_id(event: bytes) -> str:
    found = re.search(rb'"id":"([^"]*)"', event)
    return found[1].decode() if found else ""


async def short_requests(
    url: str, path: str, body: dict[str, Any], count: int, outcome: Outcome
) -> None:
    """`count` requests one after the other on one keep-alive connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    request = post(path, body)
    try:
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            answer = await reader.readexactly(length)
            if b" 200 " in head.split(b"\r\n", 1)[0]:
                outcome.requests += 1
            else:
                outcome.failures.append(answer[:300].decode(errors="replace"))
    finally:
        writer.close()
