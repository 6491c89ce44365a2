"""Answers to requests that have no body: what the paths that only look, and DELETEs, share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError
from baton.gateway.context import Context, ContextSource
from baton.gateway.http.asgi import send_bytes, send_error
from baton.gateway.http.exchange import Exchange

Answer = Callable[[Context, Exchange], Awaitable[tuple[int, Any]]]
"""Gives status and document. Raises BatonError."""


class View:
    """An ASGI app around an Answer, whose document `render` puts into bytes."""

    def __init__(
        self,
        context: ContextSource,
        answer: Answer,
        render: Callable[[Any], bytes] = orjson.dumps,
        content_type: str = "application/json",
    ) -> None:
        self._context = context
        self._answer = answer
        self._render = render
        self._type = (b"content-type", content_type.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            status, document = await self._answer(self._context(), exchange)
        except BatonError as error:
            await send_error(send, error, exchange.headers)
        else:
            body = self._render(document)
            await send_bytes(send, status, body, [self._type, *exchange.headers])
