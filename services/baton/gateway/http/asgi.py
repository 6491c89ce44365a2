"""Small ASGI responses, without a response object in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import Scope, Send

from baton.core.errors import BatonError
from baton.gateway import errors

Headers = list[tuple[bytes, bytes]]
ErrorBody = Callable[[BatonError], bytes]
"""An error's document, as one API shows it."""

_JSON = (b"content-type", b"application/json")


def draw_id() -> str:
    """A name that no other request has: 32 hexadecimal digits."""
    return os.urandom(16).hex()


def response_headers(scope: Scope) -> Headers:
    """Headers that every response to this request has."""
    headers: Headers = scope["baton.headers"]
    return headers


async def send_bytes(
    send: Send, status: int, body: bytes, headers: Headers, *, more: bool = False
) -> None:
    """A response of known length. With `more` it is not finished: the caller ends it."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_json(send: Send, status: int, document: Any, headers: Headers) -> None:
    """A JSON response."""
    await send_bytes(send, status, orjson.dumps(document), [_JSON, *headers])


async def send_error(
    send: Send,
    error: BatonError,
    headers: Headers,
    body: ErrorBody = errors.body,
    *,
    more: bool = False,
) -> None:
    """An error, by default as OpenAI shows it."""
    await send_bytes(
        send,
        errors.mapping(error).http,
        body(error),
        [_JSON, *errors.headers(error), *headers],
        more=more,
    )
