"""POST /v1/baton/prefetch: have the KV of a prompt ready before its request comes."""

from __future__ import annotations

import logging

from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError, InvalidRequestError, PayloadTooLargeError
from baton.gateway import errors, parse
from baton.gateway.admission import arrival, read_body, refuse_body
from baton.gateway.asgi import response_headers, send_error, send_json
from baton.gateway.context import NO_MODEL, Context, ContextSource
from baton.gateway.hints import Hint, Told
from baton.gateway.prepare import ServedModel, cache_ttl_s, check_prompt
from baton.gateway.schemas import PrefetchBody, Prefetched, PrefetchedPrompt
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

# A hint without a time keeps what it brings for so long.
DEFAULT_TTL_S = 60.0


class Prefetch:
    """An ASGI app: a hint in, 202 and who was told out. Nobody waits for the workers."""

    api = "prefetch"

    def __init__(self, context: ContextSource) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = response_headers(scope)
        try:
            document = await self._prefetch(self._context(), scope, receive)
        except PayloadTooLargeError as error:
            await refuse_body(send, receive, error, headers)
        except BatonError as error:
            await send_error(send, error, headers)
        else:
            await send_json(send, 202, document, headers)

    async def _prefetch(self, context: Context, scope: Scope, receive: Receive) -> Prefetched:
        """Errors are counted."""
        series = context.series(NO_MODEL, self.api)
        try:
            at = arrival(scope, context.settings.request_timeout_s)
            raw = await read_body(receive, at, context.settings.max_body_bytes)
            body = parse.read(PrefetchBody, raw)
            model = context.model(body.model)
            series = context.series(model.name, self.api)
            document = await _pass_on(context, model, body)
            series.ended("ok")
            return document
        except BatonError as error:
            series.ended(error.code)
            raise
        except Exception as bug:
            log.exception(*event("request_failed", request_id=scope["baton.request_id"]))
            series.ended(BatonError.code)
            raise errors.internal(bug) from bug


async def _pass_on(context: Context, model: ServedModel, body: PrefetchBody) -> Prefetched:
    """Tokenize as for a request, and tell the workers. Raises BatonError."""
    most = context.settings.max_cache_ttl_s
    default = min(DEFAULT_TTL_S, most)
    ttl_s = default if body.cache_ttl is None else cache_ttl_s(body.cache_ttl, most)
    param, prompts = await _prompts(model, body)
    hints = []
    for index, prompt in enumerate(prompts):
        check_prompt(model, prompt, param if len(prompts) == 1 else f"{param}[{index}]")
        salt, peer = body.cache_salt or "", body.from_worker or ""
        hints.append(Hint(model.name, tuple(prompt), ttl_s, salt, peer))
    return {
        "object": "baton.prefetch",
        "model": model.name,
        "cache_ttl": ttl_s,
        "prompts": [_told(hint, context.prefetcher.prefetch(hint)) for hint in hints],
    }


async def _prompts(model: ServedModel, body: PrefetchBody) -> tuple[str, list[list[int]]]:
    """The parameter that was used, and the token ids."""
    if (body.messages is None) == (body.prompt is None):
        raise InvalidRequestError("Provide either 'messages' or 'prompt'.", param="messages")
    if body.messages is not None:
        chat = parse.messages(body.messages)
        return "messages", [await model.tokenizer.encode_chat(chat, model.context_length)]
    given = parse.prompts(body.prompt)
    texts = [prompt for prompt in given if isinstance(prompt, str)]
    if texts:
        return "prompt", await model.tokenizer.encode_texts(texts, model.context_length)
    return "prompt", [prompt for prompt in given if not isinstance(prompt, str)]


def _told(hint: Hint, told: list[Told]) -> PrefetchedPrompt:
    return {
        "prompt_tokens": len(hint.prompt),
        "workers": [{"id": one.worker_id, "role": one.role} for one in told],
    }
