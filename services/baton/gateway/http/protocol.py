"""uvicorn's connections, with bounds on what a client may keep open without asking for anything.

uvicorn times a connection out between two requests only. Here a head must come within
HEAD_TIMEOUT_S and MAX_HEAD_BYTES, and a client for which more than the transport's high-water mark
(64 KiB) waits must take it within STALL_TIMEOUT_S. A request that has begun, its body included, is
bounded by its deadline; what else a client leaves unread, by `stream.MAX_UNSENT_BYTES`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from baton.core.errors import InvalidRequestError
from baton.gateway import errors
from baton.gateway.http.exchange import CONNECTION, Connection
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 2**16
# From the first byte of a head to its last.
HEAD_TIMEOUT_S = 10.0
# For a client to take what has been waiting for it.
STALL_TIMEOUT_S = 60.0
# Of an idle connection. Longer than the 60 s for which load balancers keep theirs, so that they
# close first.
KEEP_ALIVE_S = 75


def _refusal(status: bytes, message: str) -> bytes:
    """A whole response, in OpenAI's form, to what never became a request."""
    body = errors.body(InvalidRequestError(message))
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    return head % (status, len(body)) + b"connection: close\r\n\r\n" + body


_HEAD_TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large",
    f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.",
)
_HEAD_TOO_SLOW = _refusal(b"408 Request Timeout", "The request's headers did not arrive in time.")
_NO_HTTP = _refusal(b"400 Bad Request", "This is not HTTP/1.1.")


class Protocol(HttpToolsProtocol):
    """One connection. Also tells endpoints when it is lost."""

    _in_message = False
    _in_head = False
    _head_bytes = 0
    # Requests that began in what came last.
    _num_begun = 0
    # More came at once than a head may have.
    _is_large = False
    _refusal = _NO_HTTP
    # Runs while a head is awaited, and while too much waits for the client.
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = Connection()
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(KEEP_ALIVE_S, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_head_timer()
        self._stop_stall_timer()
        self._connection.lost()

    # --- reading ---

    def data_received(self, data: bytes) -> None:
        self._is_large = len(data) > MAX_HEAD_BYTES
        was_in_message, self._num_begun = self._in_message, 0
        super().data_received(data)
        if not self._in_head and not (self.cycle is None or self.cycle.response_complete):
            return
        if self._in_head:
            # Otherwise some of it belongs to pipelined requests before this one.
            if self._num_begun == (0 if was_in_message else 1):
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_too_slow)

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._head_bytes = 0
        self._num_begun += 1
        # The one of a connection that was idle.
        self._stop_head_timer()
        super().on_message_begin()
        cast(Scope, self.scope)[CONNECTION] = self._connection

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        if self._is_large and self._num_head_bytes() > MAX_HEAD_BYTES:
            # Which ends the parsing, and gets to `send_400_response`.
            self._refusal = _HEAD_TOO_LARGE
            raise ValueError("the head is too large")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    def _num_head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(_HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- writing ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_stall_timer()
        self._stall_timer = self.loop.call_later(STALL_TIMEOUT_S, self._stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            # It has not taken the last answer: a close would wait for that.
            self._stalled()
        else:
            super().timeout_keep_alive_handler()

    def _stalled(self) -> None:
        log.warning(*event("client_too_slow", unsent_bytes=self.transport.get_write_buffer_size()))
        self.transport.abort()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
