"""Server-sent events: the writer behind streamed chats and completions.

Chunks are put together from bytes rendered once per choice around the JSON of the new text, and all
chunks that came in one turn of the loop leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from baton.core.errors import BatonError, OverloadedError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway import errors
from baton.gateway.answer import Answer, Head
from baton.gateway.asgi import Headers
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.logprobs import TokenRecord
from baton.gateway.output import ChoiceOutput
from baton.gateway.prepare import ServedModel
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 2**20
"""A client that reads so slowly that more than this waits for it is cut off."""
_LARGE_EVENT_BYTES = 2**16

_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies (nginx) would otherwise collect events before they pass them on.
    (b"x-accel-buffering", b"no"),
]
_DONE = b"data: [DONE]\n\n"


class EventStream(Answer):
    """An answer as events. The status waits for the first event, so early errors have their own.

    A chunk is `begin`, the choices, and `end`; a plain one `output.prefix`, the text, and `tail`.
    """

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        head: Head,
        kind: str,
        include_usage: bool,
    ) -> None:
        super().__init__(model, requests, stops, metrics)
        self.head = head
        document = {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": model.name,
            "system_fingerprint": None,
        }
        self.begin = b"data: " + orjson.dumps(document)[:-1]
        self.end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self.details = head.logprobs or head.token_ids
        self._include_usage = include_usage
        self._unsent: list[bytes] = []
        self._num_unsent_bytes = 0
        self._max_unsent_bytes = MAX_UNSENT_BYTES
        self._connection: asyncio.Transport | None = None

    @property
    @abstractmethod
    def tail(self) -> bytes:
        """What follows the text of a plain chunk."""

    @abstractmethod
    def first_chunks(self, output: ChoiceOutput) -> None:
        """Render what a choice begins with, and set `output.prefix`."""

    @abstractmethod
    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        """Render the end of a choice, with its last text."""

    @abstractmethod
    def detailed_chunk(self, output: ChoiceOutput, text: str, finish: str | None) -> None:
        """Render text with the logprobs or token ids of `output.records`, which it empties."""

    def on_token(
        self,
        output: ChoiceOutput,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> None:
        self.metrics.token(output)
        if not output.started:
            output.started = True
            self.first_chunks(output)
        if self.details:
            output.records.append(TokenRecord(token, logprobs, output.num_chars))
        text = output.push(token, finish)
        if output.finish is not None:
            self.last_chunk(output, text)
        elif not text:
            return
        elif self.details:
            self.detailed_chunk(output, text, None)
        else:
            self.write(output.prefix + orjson.dumps(text) + self.tail)

    def on_complete(self) -> None:
        if self._include_usage:
            usage = orjson.dumps(self.usage())
            self.write(b'%s,"choices":[],"usage":%s}\n\n' % (self.begin, usage))
        self.write(_DONE)

    def write_choice(self, choice: Any) -> None:
        """Queue a chunk with one choice."""
        self.write(b'%s,"choices":[%s%s' % (self.begin, orjson.dumps(choice), self.end))

    def write(self, event: bytes) -> None:
        """Queue rendered events; those of one turn of the loop leave together."""
        if not self._unsent:
            if self._connection is None:
                self.wake()
            else:
                asyncio.get_running_loop().call_soon(self._flush, self._connection)
        self._unsent.append(event)
        self._num_unsent_bytes += len(event)
        if len(event) > _LARGE_EVENT_BYTES:
            # A long prompt that is echoed is no fault of the client's.
            self._max_unsent_bytes += len(event)
        if self._num_unsent_bytes > self._max_unsent_bytes:
            self._too_slow()

    async def respond(self, send: Send, receive: Receive, headers: Headers) -> None:
        """Write the answer to its end. Raises its error if that came before the first event."""
        while not self._unsent:
            if self.error is not None:
                raise self.error
            if self.gone:
                return
            await self.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
        self._connection = _connection(receive)
        if self._connection is not None:
            self._flush(self._connection)
            while not self.over:
                await self.wait()
        while True:
            while not self._unsent and not self.over:
                await self.wait()
            # Reading `over` before the buffer is taken: nothing comes after it.
            more = not self.over
            data = self._take()
            if self.error is not None:
                data += error_event(self.error)
            await send({"type": "http.response.body", "body": data, "more_body": more})
            if not more:
                return

    def _take(self) -> bytes:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._num_unsent_bytes = 0
        return data

    def _flush(self, connection: asyncio.Transport) -> None:
        """Write a chunk (RFC 9112, 7.1) on the server's transport."""
        if not self._unsent or self.gone:
            return
        data = self._take()
        connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        if connection.get_write_buffer_size() > self._max_unsent_bytes:
            self._too_slow()

    def _too_slow(self) -> None:
        log.warning(*event("client_too_slow", unsent_bytes=MAX_UNSENT_BYTES))
        self.fail(OverloadedError("the client reads too slowly"))
        if self._connection is not None:
            # An error event would wait behind all that the client has not read.
            self._unsent.clear()
            self._connection.abort()


def _connection(receive: Receive) -> asyncio.Transport | None:
    """The transport behind uvicorn's `receive` once a chunked response has begun, else None.

    Writing there saves the way through the task that waits, and through `send`: a sixth of all
    that the gateway does for a token. (`send` leads there too, but middlewares have wrapped it.)
    """
    cycle = getattr(receive, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and cycle.chunked_encoding:
        return cycle.transport
    return None


def error_event(error: BatonError) -> bytes:
    """An error after the first event: the status has gone out already."""
    return b"data: " + errors.body(error) + b"\n\n"
