"""OpenAI's API: chat completions and completions."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError, PayloadTooLargeError
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway import errors, parse
from baton.gateway.admission import Arrival, arrival, read_body, refuse_body
from baton.gateway.answer import Answer, Head
from baton.gateway.asgi import draw_id, response_headers, send_error
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.chat_answer import ChatDocument, ChatStream
from baton.gateway.collect import Collected
from baton.gateway.completion_answer import CompletionDocument, CompletionStream
from baton.gateway.context import NO_MODEL, Context, ContextSource
from baton.gateway.prepare import ServedModel, Wanted, build_requests, cache_ttl_s
from baton.gateway.schemas import ChatBody, CompletionBody, GenerationBody
from baton.gateway.stream import EventStream
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

B = TypeVar("B", bound=GenerationBody)

DEFAULT_COMPLETION_TOKENS = 16


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


class ChatCompletions(Endpoint[ChatBody]):
    """POST /v1/chat/completions"""

    api = "chat"
    body = ChatBody

    async def build(
        self, body: ChatBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        wanted = _wanted(
            body,
            self._context().settings,
            max_tokens=body.max_tokens
            if body.max_completion_tokens is None
            else body.max_completion_tokens,
            default_max_tokens=None,
            logprobs=bool(body.logprobs),
            top_logprobs=body.top_logprobs or 0,
        )
        prompt = await model.tokenizer.encode_chat(
            parse.messages(body.messages), model.context_length
        )
        head = _head("chatcmpl-", body, wanted)
        requests = _requests(model, [prompt], wanted, head, at, "messages")
        if body.stream:
            return ChatStream(
                model,
                requests,
                wanted.stops,
                metrics,
                head=head,
                include_usage=_include_usage(body),
            )
        return ChatDocument(model, requests, wanted.stops, metrics, head=head)


class Completions(Endpoint[CompletionBody]):
    """POST /v1/completions"""

    api = "completions"
    body = CompletionBody

    async def build(
        self, body: CompletionBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        wanted = _wanted(
            body,
            self._context().settings,
            max_tokens=body.max_tokens,
            default_max_tokens=DEFAULT_COMPLETION_TOKENS,
            logprobs=body.logprobs is not None,
            top_logprobs=body.logprobs or 0,
        )
        given = parse.prompts(body.prompt)
        texts = [prompt for prompt in given if isinstance(prompt, str)]
        prompts = [prompt for prompt in given if not isinstance(prompt, str)]
        if texts:
            prompts = await model.tokenizer.encode_texts(texts, model.context_length)
        head = _head("cmpl-", body, wanted)
        requests = _requests(model, prompts, wanted, head, at, "prompt")
        echoes = [""] * len(prompts)
        if body.echo:
            echoes = texts or [model.tokenizer.decode(prompt) for prompt in prompts]
        if body.stream:
            return CompletionStream(
                model,
                requests,
                wanted.stops,
                metrics,
                head=head,
                echoes=echoes,
                include_usage=_include_usage(body),
            )
        return CompletionDocument(model, requests, wanted.stops, metrics, head=head, echoes=echoes)


def _wanted(
    body: GenerationBody,
    settings: GatewaySettings,
    *,
    max_tokens: int | None,
    default_max_tokens: int | None,
    logprobs: bool,
    top_logprobs: int,
) -> Wanted:
    return Wanted(
        default_max_tokens=default_max_tokens,
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=parse.logit_bias(body.logit_bias),
        min_tokens=body.min_tokens,
        stop_token_ids=body.stop_token_ids or (),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        n=body.n or 1,
        seed=body.seed,
        stops=parse.stops(body.stop),
        cache_ttl_s=cache_ttl_s(body.cache_ttl, settings.max_cache_ttl_s),
        cache_salt=body.cache_salt or "",
    )


def _head(prefix: str, body: GenerationBody, wanted: Wanted) -> Head:
    return Head(prefix + draw_id(), int(time.time()), wanted.logprobs, bool(body.return_token_ids))


def _requests(
    model: ServedModel,
    prompts: list[list[int]],
    wanted: Wanted,
    head: Head,
    at: Arrival,
    param: str,
) -> list[Request]:
    return build_requests(
        model, prompts, wanted, head.id, at.deadline, traceparent=at.traceparent, param=param
    )


def _include_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)
