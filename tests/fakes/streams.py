"""A client of streamed completions and chats that keeps all it is told, and when."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Body = dict[str, Any]


@dataclass
class Answer:
    """Per choice: token ids, text, logprobs and finish reason; the usage; the longest pause.

    `first_s` is the wait for the first event, `gap_s` the longest one after it.
    """

    tokens: dict[int, list[int]] = field(default_factory=dict)
    text: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, list[Any]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    first_s: float = 0.0
    gap_s: float = 0.0
    is_done: bool = False
    problem: str = ""

    def take(self, event: dict[str, Any]) -> None:
        """A chunk of either API."""
        if "error" in event:
            self.problem = json.dumps(event)
            return
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            i = choice["index"]
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            self.text[i] = self.text.get(i, "") + text
            self.tokens.setdefault(i, []).extend(choice.get("token_ids") or ())
            if choice.get("logprobs"):
                self.logprobs.setdefault(i, []).append(choice["logprobs"])
            if choice.get("finish_reason"):
                assert i not in self.finish, "a choice ended twice"
                self.finish[i] = choice["finish_reason"]


async def read_refusal(status: bytes, reader: asyncio.StreamReader) -> str:
    """The rest of an answer that is no stream: its headers and its whole body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")]
    body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
    return (status + head + body).decode(errors="replace")


async def ask(
    url: str,
    body: Body,
    path: str = "/v1/completions",
    headers: str = "",
    answer: Any = None,
    *,
    leave_after: int | None = None,
) -> Answer:
    """Stream one answer, into `answer` if it is given, to see it grow.

    It ends with [DONE], with an error, or when the client leaves after so many events.
    """
    address = urlsplit(url)
    raw = json.dumps({**body, "stream": True}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{headers}"
    answer = Answer() if answer is None else answer
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    asked = last = time.monotonic()
    num_events = 0
    try:
        writer.write(f"{head}content-type: application/json\r\n\r\n".encode() + raw)
        status = await reader.readline()
        if b" 200 " not in status:
            answer.problem = await read_refusal(status, reader)
            return answer
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                answer.is_done = True
                break
            if not line.startswith(b"data: "):
                continue
            answer.take(json.loads(line[6:]))
            num_events += 1
            now = time.monotonic()
            if num_events == 1:
                answer.first_s = now - asked
            else:
                answer.gap_s = max(answer.gap_s, now - last)
            last = now
            if answer.problem or num_events == leave_after:
                break
        return answer
    finally:
        writer.close()
