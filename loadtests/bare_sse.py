"""The yardstick of `bench_gateway`: an ASGI app on uvicorn that does nothing but stream.

POST / streams as many events as the body's `max_tokens` asks for: the first at once, as mock
workers compute a prompt in no time, the others by one ticker for all streams. Each event is the
bytes of a chat chunk rendered beforehand.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",'
    b'"created":1790000000,"model":"baton-tiny","choices":[{"index":0,"delta":{"content":" word"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)


class Ticker:
    """Wakes every stream once per step."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.waiting: set[asyncio.Event] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self.step_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            for event in self.waiting:
                event.set()


def create_app(step_s: float) -> Any:
    ticker = Ticker(step_s)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            task = asyncio.create_task(ticker.run())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            task.cancel()
            await send({"type": "lifespan.shutdown.complete"})
            return
        count = json.loads((await receive())["body"])["max_tokens"]
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        event = asyncio.Event()
        ticker.waiting.add(event)
        try:
            for number in range(count):
                if number:
                    await event.wait()
                event.clear()
                await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        finally:
            ticker.waiting.discard(event)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


if __name__ == "__main__":
    port, step_ms = int(sys.argv[1]), float(sys.argv[2])
    uvicorn.run(create_app(step_ms / 1e3), port=port, log_level="error", loop="uvloop")
