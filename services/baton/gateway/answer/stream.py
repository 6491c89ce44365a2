"""Server-sent events: the writer behind every streamed answer.

Events are put together from bytes rendered once per choice around the JSON of the new text, and all
that came in one turn of the loop leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence

import orjson

from baton.core.errors import BatonError, OverloadedError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway import errors
from baton.gateway.answer.base import Answer
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.logprobs import TokenRecord
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.api.prepare import ServedModel
from baton.gateway.http.asgi import Headers
from baton.gateway.http.exchange import Exchange
from baton.gateway.http.flushes import Flushes
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


class EventStream(Answer):
    """An answer as events. The status waits for the first event, so early errors have their own.

    An event with new text is `output.prefix`, the text, and `tail`; with `details` it is whatever
    `detailed_chunk` makes of the records.
    """

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        details: bool,
    ) -> None:
        super().__init__(model, requests, text, metrics)
        self.details = details
        self.tail = b""
        self._unsent: list[bytes] = []
        self._num_unsent_bytes = 0
        self._max_unsent_bytes = MAX_UNSENT_BYTES
        self._connection: asyncio.Transport | None = None
        self._flushes: Flushes | None = None

    @abstractmethod
    def first_chunks(self, output: ChoiceOutput) -> None:
        """Render what a choice begins with, and set `output.prefix`."""

    @abstractmethod
    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        """Render the end of a choice, with its last text."""

    def detailed_chunk(self, output: ChoiceOutput, text: str, finish: str | None) -> None:
        """Render text with what `output.records` hold, which it empties. Only with `details`."""
        raise NotImplementedError

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

    def error_event(self, error: BatonError) -> bytes:
        """An error after the first event: the status has gone out already."""
        return b"data: " + errors.body(error) + b"\n\n"

    def write(self, event: bytes) -> None:
        """Queue rendered events; those of one turn of the loop leave together."""
        if not self._unsent:
            if self._flushes is None:
                self.wake()
            else:
                self._flushes.add(self)
        self._unsent.append(event)
        self._num_unsent_bytes += len(event)
        if len(event) > _LARGE_EVENT_BYTES:
            # A long prompt that is echoed is no fault of the client's.
            self._max_unsent_bytes += len(event)
        if self._num_unsent_bytes > self._max_unsent_bytes:
            self._too_slow()

    async def respond(self, exchange: Exchange, flushes: Flushes) -> None:
        """Write the answer to its end. Raises its error if that came before the first event."""
        while not self._unsent:
            if self.error is not None:
                raise self.error
            if self.gone:
                return
            await self.wait()
        send = exchange.send
        headers = [*_HEADERS, *exchange.headers]
        self.has_begun = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._connection = exchange.chunked_transport()
        if self._connection is not None:
            self._flushes = flushes
            self.flush()
            while not self.over:
                await self.wait()
        while True:
            while not self._unsent and not self.over:
                await self.wait()
            # Reading `over` before the buffer is taken: nothing comes after it.
            more = not self.over
            if self.complete:
                await self.conclude()
            data = self._take()
            if self.error is not None:
                data += self.error_event(self.error)
            await send({"type": "http.response.body", "body": data, "more_body": more})
            if not more:
                return

    def _take(self) -> bytes:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._num_unsent_bytes = 0
        return data

    def flush(self) -> None:
        """Write a chunk (RFC 9112, 7.1) on the server's transport."""
        connection = self._connection
        if not self._unsent or self.gone or connection is None:
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
