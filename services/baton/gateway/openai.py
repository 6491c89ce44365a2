"""OpenAI's API: chat completions and completions."""

from __future__ import annotations

import time

from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway import parse
from baton.gateway.admission import Arrival
from baton.gateway.answer import Head
from baton.gateway.asgi import draw_id
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.chat_answer import ChatDocument, ChatStream
from baton.gateway.collect import Collected
from baton.gateway.completion_answer import CompletionDocument, CompletionStream
from baton.gateway.endpoint import Endpoint
from baton.gateway.prepare import ServedModel, Wanted, build_requests, cache_ttl_s
from baton.gateway.schemas import ChatBody, CompletionBody, GenerationBody
from baton.gateway.stream import EventStream

DEFAULT_COMPLETION_TOKENS = 16


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
