"""Anthropic's API: messages, and counting the tokens of a prompt.

The `anthropic-version` header is accepted, whatever it names.
"""

from __future__ import annotations

import time

from typing_extensions import TypedDict

from baton.core.errors import BatonError
from baton.gateway.answer.base import Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.lifecycle import Intake
from baton.gateway.answer.output import TextParams
from baton.gateway.answer.stream import EventStream
from baton.gateway.api import anthropic_errors, parse
from baton.gateway.api.anthropic_answer import MessageDocument, MessageStream
from baton.gateway.api.anthropic_bodies import MessagesBody, PromptBody
from baton.gateway.api.anthropic_messages import chat_of
from baton.gateway.api.endpoint import Endpoint
from baton.gateway.api.json_post import JsonPost
from baton.gateway.api.prepare import ServedModel, Wanted, cache_ttl_s
from baton.gateway.api.wanted import affinity, requests_for
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.asgi import draw_id
from baton.gateway.http.exchange import Exchange


class Messages(Endpoint[MessagesBody]):
    """POST /v1/messages"""

    api = "messages"
    body = MessagesBody

    def error_body(self, error: BatonError) -> bytes:
        return anthropic_errors.body(error)

    async def build(
        self, body: MessagesBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        asked = _wanted(body, self._context(), at)
        chat = chat_of(body)
        prompt = await model.tokenizer.encode_chat(
            chat.messages, model.context_length, chat.options
        )
        call_id = f"msg_{draw_id()}"
        requests = requests_for(model, [prompt], asked, call_id, at, "messages")
        head = Head(call_id, int(time.time()), False, False, model.tokenizer.token_bytes)
        kind = MessageStream if body.stream else MessageDocument
        clamped = requests[0].sampling.max_tokens < body.max_tokens
        return kind(model, requests, asked.text, metrics, head=head, clamped=clamped)


class TokenCount(TypedDict):
    input_tokens: int


class CountTokens(JsonPost[PromptBody]):
    """POST /v1/messages/count_tokens"""

    api = "count_tokens"
    body = PromptBody

    def error_body(self, error: BatonError) -> bytes:
        return anthropic_errors.body(error)

    async def answer(
        self, call: Intake, body: PromptBody, at: Arrival, exchange: Exchange
    ) -> TokenCount:
        model = call.model(body.model)
        chat = chat_of(body)
        prompt = await model.tokenizer.encode_chat(chat.messages, None, chat.options)
        return {"input_tokens": len(prompt)}


def _wanted(body: MessagesBody, context: Context, at: Arrival) -> Wanted:
    return Wanted(
        # Unlike OpenAI's, a number that does not fit the context is no error.
        default_max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        text=TextParams(parse.stops(body.stop_sequences, "stop_sequences")),
        cache_ttl_s=cache_ttl_s(body.cache_ttl, context.settings.max_cache_ttl_s),
        cache_salt=body.cache_salt or "",
        priority=context.priorities.wanted(body.priority, at.priority),
        affinity=affinity(at, body.metadata.user_id if body.metadata is not None else None),
    )
