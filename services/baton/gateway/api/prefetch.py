"""POST /v1/baton/prefetch: have the KV of a prompt ready before its request comes."""

from __future__ import annotations

from baton.core.errors import InvalidRequestError
from baton.gateway.answer.lifecycle import Intake
from baton.gateway.api import parse
from baton.gateway.api.bodies import PrefetchBody
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.json_post import JsonPost
from baton.gateway.api.prepare import ServedModel, cache_ttl_s, check_prompt
from baton.gateway.api.schemas import Prefetched, PrefetchedPrompt
from baton.gateway.hints import Hint, Told
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.exchange import Exchange

# A hint without a time keeps what it brings for so long.
DEFAULT_TTL_S = 60.0


class Prefetch(JsonPost[PrefetchBody]):
    """POST /v1/baton/prefetch: 202 and who was told. Nobody waits for the workers."""

    api = "prefetch"
    body = PrefetchBody
    status = 202

    async def answer(
        self, call: Intake, body: PrefetchBody, at: Arrival, exchange: Exchange
    ) -> Prefetched:
        """Tokenize as for a request, and tell the workers."""
        context, model = call.context, call.model(body.model)
        most = context.settings.max_cache_ttl_s
        default = min(DEFAULT_TTL_S, most)
        ttl_s = default if body.cache_ttl is None else cache_ttl_s(body.cache_ttl, most)
        param, prompts = await _prompts(model, body)
        hints = []
        for index, prompt in enumerate(prompts):
            check_prompt(model, prompt, param if len(prompts) == 1 else f"{param}[{index}]")
            salt, peer = at.caller.tenant_salt(body.cache_salt or ""), body.from_worker or ""
            hints.append(Hint(model.name, tuple(prompt), ttl_s, salt, peer))
        if context.access is not None:
            num_tokens = sum(map(len, prompts))
            reservation = await context.access.limits.reserve(
                at.caller, exchange.headers, num_tokens
            )
            if reservation is not None:
                # What the workers compute for it is not counted apart.
                reservation.settle(num_tokens)
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
        chat = template_messages(body.messages)
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
