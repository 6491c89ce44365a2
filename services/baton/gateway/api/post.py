"""What every POST of the gateway's has in common: a JSON body in, errors counted and answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError, PayloadTooLargeError
from baton.gateway import errors
from baton.gateway.answer.lifecycle import Intake, counted
from baton.gateway.api import parse
from baton.gateway.api.bodies import Body
from baton.gateway.context import Context, ContextSource
from baton.gateway.http.arrival import Arrival, arrival, read_body, refuse_body
from baton.gateway.http.asgi import send_error
from baton.gateway.http.exchange import Exchange
from baton.gateway.keys.access import INFERENCE
from baton.gateway.keys.caller import CALLER

B = TypeVar("B", bound=Body)
T = TypeVar("T")


class Post(ABC, Generic[B]):
    """An ASGI app. `api` is its name in the metrics, `body` what it reads.

    `needs` is the scope that a key must have.
    """

    api: str
    body: type[B]
    needs = INFERENCE
    # What an empty body stands for.
    default = b""

    def __init__(self, context: ContextSource) -> None:
        self._context = context

    @abstractmethod
    async def serve(self, context: Context, exchange: Exchange) -> None:
        """Answer. Raises BatonError only while nothing is sent."""

    def check(self, body: B) -> None:
        """Refuse what the fields alone do not. Raises InvalidRequestError."""

    def request_id(self, body: B) -> str | None:
        """The client's own name for the request, where bodies may have one."""
        return None

    def error_body(self, error: BatonError) -> bytes:
        """An error as this API shows it."""
        return errors.body(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self.serve(self._context(), exchange)
        except PayloadTooLargeError as error:
            await refuse_body(send, receive, error, exchange.headers, self.error_body)
        except BatonError as error:
            await send_error(send, error, exchange.headers, self.error_body)

    async def take(
        self,
        context: Context,
        exchange: Exchange,
        work: Callable[[Intake, B, Arrival], Awaitable[T]],
    ) -> T:
        """Read the request and do `work` with it; errors are counted."""
        with counted(context, self.api, exchange.request_id) as call:
            # Who comes through the app's guard is known already.
            if context.access is not None and CALLER not in exchange.scope:
                context.access.enter(exchange.scope, self.needs)
            at = arrival(exchange.scope, context.settings.request_timeout_s)
            raw = await read_body(exchange.receive, at, context.settings.max_body_bytes)
            body = parse.read(self.body, raw or self.default)
            self.check(body)
            if (name := self.request_id(body)) is not None:
                exchange.rename(name)
                call.request_id = name
            return await work(call, body, at)
