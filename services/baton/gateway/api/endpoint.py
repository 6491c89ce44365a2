"""One HTTP endpoint that generates: a body in, an answer out, whoever's API it speaks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.lifecycle import Intake, under_way
from baton.gateway.answer.stream import EventStream
from baton.gateway.api.bodies import AnyModelBody, ModelBody
from baton.gateway.api.post import Post
from baton.gateway.api.prepare import ServedModel
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.exchange import Exchange

M = TypeVar("M", bound=AnyModelBody | ModelBody)


class Endpoint(Post[M]):
    """An ASGI app: a body in, an answer out. Subclasses say what is specific to their API."""

    @abstractmethod
    async def build(
        self, body: M, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        """Check and tokenize. Raises BatonError."""

    async def serve(self, context: Context, exchange: Exchange) -> None:
        async def work(call: Intake, body: M, at: Arrival) -> EventStream | Collected:
            model = call.model(body.model)
            answer = await self.build(body, model, at, CallMetrics(call.series, at.arrived))
            if context.access is not None:
                await context.access.reserve(at.caller, exchange.headers, answer)
            return answer

        answer = await self.take(context, exchange, work)
        answer.request_id = exchange.request_id
        gone = answer.client_gone
        async with under_way(context, answer):
            exchange.watch(gone)
            try:
                await answer.respond(exchange, context.flushes)
            finally:
                exchange.unwatch(gone)
