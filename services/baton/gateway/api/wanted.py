"""From the bodies of the several APIs to what a call asks for."""

from __future__ import annotations

from typing import Any

from baton.core.errors import InvalidRequestError
from baton.core.request import Request
from baton.gateway.answer.output import TextParams
from baton.gateway.api import parse
from baton.gateway.api.bodies import SamplingBody, TemplateBody
from baton.gateway.api.prepare import ServedModel, Wanted, build_requests, cache_ttl_s
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.text.chat_template import RenderOptions

MAX_AFFINITY_CHARS = 256


def wanted(
    body: SamplingBody, context: Context, model: ServedModel, at: Arrival, **more: Any
) -> Wanted:
    """What the fields that OpenAI's APIs share ask for; `more` are further fields of Wanted.

    Raises InvalidRequestError.
    """
    return Wanted(
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
        seed=body.seed,
        text=_text(body, model),
        cache_ttl_s=cache_ttl_s(body.cache_ttl, context.settings.max_cache_ttl_s),
        cache_salt=body.cache_salt or "",
        priority=context.priorities.wanted(body.priority, at.priority),
        affinity=affinity(at, body.prompt_cache_key, body.user),
        **more,
    )


def affinity(at: Arrival, *names: str | None) -> str:
    """What keeps a conversation on one worker: the x-session-id header, or the first name given."""
    found = at.session or next(filter(None, names), "")
    return found[:MAX_AFFINITY_CHARS]


def requests_for(
    model: ServedModel,
    prompts: list[list[int]],
    wanted: Wanted,
    call_id: str,
    at: Arrival,
    param: str,
) -> list[Request]:
    """One request for each prompt, whose parameter is `param`. Raises InvalidRequestError."""
    return build_requests(
        model,
        prompts,
        wanted,
        call_id,
        at.deadline,
        traceparent=at.traceparent,
        param=param,
        caller=at.caller,
    )


def render_options(body: TemplateBody, *, trusts_templates: bool) -> RenderOptions:
    """How the chat is rendered. Raises InvalidRequestError."""
    if body.chat_template is not None and not trusts_templates:
        raise InvalidRequestError(
            "A chat template of the client's is not taken here: it is a program that the gateway "
            "would run (gateway.trust_request_chat_template).",
            param="chat_template",
        )
    continues = bool(body.continue_final_message)
    begins = body.add_generation_prompt
    return RenderOptions(
        add_generation_prompt=not continues if begins is None else begins,
        continue_final=continues,
        variables=body.chat_template_kwargs or {},
        documents=body.documents,
        template=body.chat_template,
    )


def _text(body: SamplingBody, model: ServedModel) -> TextParams:
    skip = body.skip_special_tokens is not False
    if (
        not skip
        and body.spaces_between_special_tokens is False
        and not model.tokenizer.joins_special_tokens
    ):
        raise parse.unsupported(
            "spaces_between_special_tokens", "spaces_between_special_tokens: false for this model"
        )
    return TextParams(parse.stops(body.stop), bool(body.include_stop_str_in_output), skip)
