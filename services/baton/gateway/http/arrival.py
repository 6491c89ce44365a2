"""What is decided from a request's headers and size, before anybody looks into its body."""

from __future__ import annotations

import asyncio
import math
import re
import time
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from baton.core.errors import (
    CancelledRequestError,
    DeadlineExceededError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from baton.gateway import errors
from baton.gateway.http.asgi import ErrorBody, Headers, draw_id, send_error
from baton.gateway.keys.caller import Caller, caller_of
from baton.gateway.queue.priority_classes import HEADER as PRIORITY
from baton.gateway.request_id import is_sane

MAX_TIMEOUT_S = 86400.0
_LINGER_S = 2.0
_SECONDS = re.compile(rb"[0-9]+(\.[0-9]*)?(e[0-9]{1,2})?|\.[0-9]+")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Arrival(NamedTuple):
    """What a request's headers say. Instants are `time.monotonic()`."""

    arrived: float
    deadline: float
    content_length: int | None
    traceparent: str
    caller: Caller
    session: str
    priority: bytes | None


def prepare_scope(scope: Scope) -> None:
    """Give the request an id: the client's if it is a sane one. Before anything else.

    Leaves it in scope["baton.request_id"], and in the headers of every response.
    """
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    name = "" if given is None else given.decode("latin-1")
    request_id = name if is_sane(name) else draw_id()
    scope["baton.request_id"] = request_id
    scope["baton.headers"] = [(b"x-request-id", request_id.encode())]


def arrival(scope: Scope, request_timeout_s: float) -> Arrival:
    """Read the headers that matter. Raises InvalidRequestError, UnsupportedMediaTypeError."""
    now = time.monotonic()
    timeout_s = request_timeout_s
    length: int | None = None
    traceparent = ""
    session = ""
    priority: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise InvalidRequestError("The content-length header is no number.")
            length = int(value)
        elif name == b"x-request-timeout":
            timeout_s = _timeout(value)
        elif name == b"traceparent":
            if _TRACEPARENT.fullmatch(value):
                traceparent = value.decode()
        elif name == b"x-session-id":
            session = value.decode("latin-1")
        elif name == PRIORITY:
            priority = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaTypeError("Send the body as it is: no content-encoding is read.")
    return Arrival(now, now + timeout_s, length, traceparent, caller_of(scope), session, priority)


async def read_body(receive: Receive, at: Arrival, max_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLargeError as soon as it is known to be too large.

    Also DeadlineExceededError when it does not come in time, CancelledRequestError when the client
    goes away meanwhile.
    """
    if at.content_length is not None and at.content_length > max_bytes:
        raise _too_large(max_bytes)
    message = await receive()
    # Nearly always the body comes in one piece.
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(at.deadline - time.monotonic()):
            while True:
                if message["type"] == "http.disconnect":
                    raise CancelledRequestError("the client went away")
                parts.append(message["body"])
                size += len(parts[-1])
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
    except TimeoutError as error:
        raise DeadlineExceededError("The request's body did not arrive in time.") from error


async def refuse_body(
    send: Send,
    receive: Receive,
    error: PayloadTooLargeError,
    headers: Headers,
    body: ErrorBody = errors.body,
) -> None:
    """Answer at once, then let the client get it: a connection closed on one that is still
    sending is reset, and the answer lost. So read on for a moment, and keep nothing.
    """
    await send_error(send, error, [*headers, (b"connection", b"close")], body, more=True)
    try:
        async with asyncio.timeout(_LINGER_S):
            more = True
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _timeout(value: bytes) -> float:
    seconds = float(value) if _SECONDS.fullmatch(value) else math.nan
    if not 0.0 < seconds <= MAX_TIMEOUT_S:
        raise InvalidRequestError(
            f"The x-request-timeout header must be seconds above 0, at most {MAX_TIMEOUT_S:g}."
        )
    return seconds


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The request's body is larger than {max_bytes} bytes.")
