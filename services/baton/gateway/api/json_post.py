"""POSTs that are answered at once, without any generation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from baton.gateway.answer.lifecycle import Intake
from baton.gateway.api.post import B, Post
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.asgi import send_json
from baton.gateway.http.exchange import Exchange


class JsonPost(Post[B]):
    """An ASGI app: a body in, a document out."""

    status = 200

    @abstractmethod
    async def answer(self, call: Intake, body: B, at: Arrival, exchange: Exchange) -> Any:
        """The document; more headers of the response may be added. Raises BatonError."""

    async def serve(self, context: Context, exchange: Exchange) -> None:
        async def work(call: Intake, body: B, at: Arrival) -> Any:
            document = await self.answer(call, body, at, exchange)
            call.series.ended("ok")
            return document

        document = await self.take(context, exchange, work)
        await send_json(exchange.send, self.status, document, exchange.headers)
