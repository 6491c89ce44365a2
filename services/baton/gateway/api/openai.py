"""OpenAI's API: chat completions and completions."""

from __future__ import annotations

import time

from baton.core.errors import InvalidRequestError
from baton.gateway.answer.base import Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.stream import EventStream
from baton.gateway.api import parse
from baton.gateway.api.bodies import ChatBody, CompletionBody, GenerationBody
from baton.gateway.api.chat_answer import ChatDocument, ChatStream
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.chunks import UsageShown
from baton.gateway.api.completion_answer import CompletionDocument, CompletionStream
from baton.gateway.api.endpoint import Endpoint
from baton.gateway.api.prepare import ServedModel, Wanted
from baton.gateway.api.wanted import render_options, requests_for, wanted
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.asgi import draw_id

DEFAULT_COMPLETION_TOKENS = 16


class ChatCompletions(Endpoint[ChatBody]):
    """POST /v1/chat/completions"""

    api = "chat"
    body = ChatBody

    def check(self, body: ChatBody) -> None:
        _check_generation(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequestError(
                "The 'top_logprobs' parameter is only allowed when 'logprobs' is true.",
                param="top_logprobs",
            )
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise InvalidRequestError(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not "
                "supported.",
                param="max_tokens",
            )

    def request_id(self, body: ChatBody) -> str | None:
        return body.request_id

    async def build(
        self, body: ChatBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        context = self._context()
        newer = body.max_completion_tokens
        asked = wanted(
            body,
            context,
            model,
            at,
            default_max_tokens=None,
            max_tokens=body.max_tokens if newer is None else newer,
            logprobs=bool(body.logprobs),
            top_logprobs=body.top_logprobs or 0,
            n=body.n or 1,
        )
        trusts = context.settings.trust_request_chat_template
        prompt = await model.tokenizer.encode_chat(
            template_messages(body.messages),
            _most_tokens(body, model),
            render_options(body, trusts_templates=trusts),
            special=bool(body.add_special_tokens),
        )
        prompt = _truncated(prompt, body, model, asked)
        call_id = f"chatcmpl-{draw_id()}"
        head = _head("chatcmpl-", call_id, body, model, asked)
        requests = requests_for(model, [prompt], asked, call_id, at, "messages")
        if body.stream:
            return ChatStream(
                model, requests, asked.text, metrics, head=head, usage=_usage_shown(body)
            )
        return ChatDocument(model, requests, asked.text, metrics, head=head)


class Completions(Endpoint[CompletionBody]):
    """POST /v1/completions"""

    api = "completions"
    body = CompletionBody

    def check(self, body: CompletionBody) -> None:
        _check_generation(body)
        n = body.n or 1
        if body.best_of is not None and body.best_of != n:
            if body.best_of > n:
                raise parse.unsupported("best_of", f"best_of above n ({n})")
            raise InvalidRequestError(
                f"Invalid 'best_of': it must not be below n ({n}), got {body.best_of}.",
                param="best_of",
            )
        if body.echo and body.logprobs is not None:
            raise parse.unsupported("echo", "echo together with logprobs")

    def request_id(self, body: CompletionBody) -> str | None:
        return body.request_id

    async def build(
        self, body: CompletionBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        asked = wanted(
            body,
            self._context(),
            model,
            at,
            default_max_tokens=DEFAULT_COMPLETION_TOKENS,
            max_tokens=body.max_tokens,
            logprobs=body.logprobs is not None,
            top_logprobs=body.logprobs or 0,
            n=body.n or 1,
        )
        prompts, texts = await _prompts(body, model, asked)
        call_id = f"cmpl-{draw_id()}"
        head = _head("cmpl-", call_id, body, model, asked)
        requests = requests_for(model, prompts, asked, call_id, at, "prompt")
        echoes = [""] * len(prompts)
        if body.echo:
            echoes = texts or [model.tokenizer.decode(prompt) for prompt in prompts]
        if body.stream:
            return CompletionStream(
                model,
                requests,
                asked.text,
                metrics,
                head=head,
                echoes=echoes,
                usage=_usage_shown(body),
            )
        return CompletionDocument(model, requests, asked.text, metrics, head=head, echoes=echoes)


def _check_generation(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if body.truncate_prompt_tokens == 0:
        raise InvalidRequestError(
            "Invalid 'truncate_prompt_tokens': nothing would be left of the prompt.",
            param="truncate_prompt_tokens",
        )


async def _prompts(
    body: CompletionBody, model: ServedModel, asked: Wanted
) -> tuple[list[list[int]], list[str]]:
    """Tokens of each prompt, and the texts, if they were given as texts and are whole."""
    given = parse.prompts(body.prompt)
    texts = [prompt for prompt in given if isinstance(prompt, str)]
    prompts = [prompt for prompt in given if not isinstance(prompt, str)]
    if texts:
        prompts = await model.tokenizer.encode_texts(
            texts, _most_tokens(body, model), special=body.add_special_tokens is not False
        )
    whole = prompts
    prompts = [_truncated(prompt, body, model, asked) for prompt in whole]
    return prompts, texts if prompts == whole else []


def _most_tokens(body: GenerationBody, model: ServedModel) -> int | None:
    """Bound on the tokens of a prompt; a longer one is truncated where that is asked for."""
    return model.context_length if body.truncate_prompt_tokens is None else None


def _truncated(
    prompt: list[int], body: GenerationBody, model: ServedModel, asked: Wanted
) -> list[int]:
    """The last tokens, as many as are wanted."""
    most = body.truncate_prompt_tokens
    if most is None:
        return prompt
    if most < 0:
        least = asked.default_max_tokens or 1
        most = model.context_length - (least if asked.max_tokens is None else asked.max_tokens)
    return prompt[-max(1, most) :]


def _head(
    prefix: str, call_id: str, body: GenerationBody, model: ServedModel, asked: Wanted
) -> Head:
    return Head(
        call_id if body.request_id is None else prefix + body.request_id,
        int(time.time()),
        asked.logprobs,
        bool(body.return_token_ids),
        _numbered if body.return_tokens_as_token_ids else model.tokenizer.token_bytes,
    )


def _numbered(token: int) -> bytes:
    return b"token_id:%d" % token


def _usage_shown(body: GenerationBody) -> UsageShown:
    options = body.stream_options
    if options is None or not options.include_usage:
        return "never"
    return "each" if options.continuous_usage_stats else "last"
