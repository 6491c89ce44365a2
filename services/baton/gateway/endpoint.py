"""One HTTP endpoint that generates: a body in, an answer out, whoever's API it speaks."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError, PayloadTooLargeError
from baton.gateway import errors, parse
from baton.gateway.admission import Arrival, arrival, read_body, refuse_body
from baton.gateway.answer import Answer
from baton.gateway.asgi import response_headers, send_error
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.collect import Collected
from baton.gateway.context import NO_MODEL, Context, ContextSource
from baton.gateway.prepare import ServedModel
from baton.gateway.schemas import GenerationBody
from baton.gateway.stream import EventStream
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

B = TypeVar("B", bound=GenerationBody)


class Endpoint(ABC, Generic[B]):
    """An ASGI app: a body in, an answer out. Subclasses say what is specific to their API."""

    api: str
    body: type[B]

    def __init__(self, context: ContextSource) -> None:
        self._context = context

    @abstractmethod
    async def build(
        self, body: B, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        """Check and tokenize. Raises BatonError."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = response_headers(scope)
        try:
            context = self._context()
            answer = await self._prepare(context, scope, receive)
            await _serve(context, answer, scope, receive, send)
        except PayloadTooLargeError as error:
            await refuse_body(send, receive, error, headers)
        except BatonError as error:
            await send_error(send, error, headers)

    async def _prepare(
        self, context: Context, scope: Scope, receive: Receive
    ) -> EventStream | Collected:
        """Everything before the submission; errors are counted."""
        series = context.series(NO_MODEL, self.api)
        try:
            at = arrival(scope, context.settings.request_timeout_s)
            raw = await read_body(receive, at, context.settings.max_body_bytes)
            body = parse.parse(self.body, raw)
            model = context.model(body.model)
            series = context.series(model.name, self.api)
            return await self.build(body, model, at, CallMetrics(series, at.arrived))
        except BatonError as error:
            series.ended(error.code)
            raise
        except Exception as bug:
            log.exception(*event("request_failed", request_id=scope["baton.request_id"]))
            series.ended(BatonError.code)
            raise errors.internal(bug) from bug


async def _serve(
    context: Context,
    answer: EventStream | Collected,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Submit, and respond until it is over. Raises BatonError only while nothing is sent."""
    watcher: asyncio.Task[None] | None = None
    answer.metrics.begin()
    try:
        context.answers.add(answer)
        answer.submit(context.generator)
        watcher = asyncio.create_task(_watch(receive, answer))
        await answer.respond(send, receive, response_headers(scope))
    except BatonError as error:
        answer.fail(error)
        raise
    except asyncio.CancelledError:
        # The server stops, and cuts off what does not end.
        answer.client_gone()
        raise
    except Exception as bug:
        log.exception(*event("request_failed", request_id=scope["baton.request_id"]))
        answer.fail(errors.internal(bug))
        raise
    finally:
        if watcher is not None:
            watcher.cancel()
        context.answers.remove(answer)
        answer.metrics.end(answer, scope["baton.request_id"])


async def _watch(receive: Receive, answer: Answer) -> None:
    """Cancel the answer when its client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.client_gone()
