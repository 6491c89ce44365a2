"""From checked parameters to the requests that workers get: lengths, ranges, seeds, deadlines."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from baton.core.errors import ContextLengthError, InvalidRequestError
from baton.core.request import Request, SamplingParams
from baton.gateway.answer.output import PLAIN, TextParams
from baton.gateway.keys.caller import ANYBODY, Caller
from baton.gateway.text.tokenizer import Tokenizer

_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients see it. `created` is a Unix time."""

    name: str
    tokenizer: Tokenizer
    context_length: int
    vocab_size: int
    created: int


class Wanted(NamedTuple):
    """What a call asks for, apart from its prompts; None takes OpenAI's default.

    `default_max_tokens` holds when `max_tokens` is None; None is the rest of the context.
    """

    default_max_tokens: int | None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = MappingProxyType({})
    min_tokens: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    seed: int | None = None
    text: TextParams = PLAIN
    cache_ttl_s: float = 0.0
    cache_salt: str = ""
    priority: int = 0
    affinity: str = ""


def check_prompt(model: ServedModel, prompt: Sequence[int], param: str = "prompt") -> None:
    """Raise when the prompt is empty, holds no tokens of this model, or fills its context."""
    if not prompt:
        raise InvalidRequestError("The prompt has no tokens.", param=param)
    if min(prompt) < 0 or max(prompt) >= model.vocab_size:
        wrong = next(t for t in prompt if not 0 <= t < model.vocab_size)
        raise InvalidRequestError(
            f"Invalid '{param}': token id {wrong} is not between 0 and {model.vocab_size - 1}.",
            param=param,
        )
    if len(prompt) >= model.context_length:
        raise ContextLengthError(
            f"This model's maximum context length is {model.context_length} tokens. However, your "
            f"prompt has {len(prompt)} tokens, which leaves none for the answer. "
            "Please shorten it.",
            param=param,
        )


def cache_ttl_s(value: float | None, most: float) -> float:
    """The `cache_ttl` parameter in seconds. Raises InvalidRequestError."""
    if value is None:
        return 0.0
    if not 0 <= value <= most:
        raise InvalidRequestError(
            f"Invalid 'cache_ttl': expected 0 to {most:g} seconds (gateway.max_cache_ttl_s), got "
            f"{value:g}.",
            param="cache_ttl",
        )
    return value


def sampling_params(model: ServedModel, num_prompt_tokens: int, wanted: Wanted) -> SamplingParams:
    """Raises InvalidRequestError naming the parameter, ContextLengthError for too many tokens."""
    room = model.context_length - num_prompt_tokens
    max_tokens = wanted.max_tokens
    if max_tokens is None:
        least = wanted.default_max_tokens
        max_tokens = room if least is None else min(room, max(least, wanted.min_tokens or 0))
    elif max_tokens > room:
        raise ContextLengthError(
            f"This model's maximum context length is {model.context_length} tokens. However, you "
            f"requested {num_prompt_tokens + max_tokens} tokens ({num_prompt_tokens} in the "
            f"prompt, {max_tokens} in the completion). Please reduce one of them.",
            param="max_tokens",
        )
    for name, tokens in (
        ("logit_bias", wanted.logit_bias),
        ("stop_token_ids", wanted.stop_token_ids),
    ):
        for token in tokens:
            if not 0 <= token < model.vocab_size:
                raise InvalidRequestError(
                    f"Invalid '{name}': token id {token} is not between 0 and "
                    f"{model.vocab_size - 1}.",
                    param=name,
                )
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=_or(wanted.temperature, 1.0),
        top_p=_or(wanted.top_p, 1.0),
        top_k=_top_k(wanted.top_k, model.vocab_size),
        min_p=_or(wanted.min_p, 0.0),
        presence_penalty=_or(wanted.presence_penalty, 0.0),
        frequency_penalty=_or(wanted.frequency_penalty, 0.0),
        logit_bias=wanted.logit_bias,
        min_tokens=wanted.min_tokens or 0,
        stop_token_ids=tuple(wanted.stop_token_ids),
        ignore_eos=wanted.ignore_eos,
        logprobs=wanted.logprobs,
        top_logprobs=wanted.top_logprobs,
    )
    params.check()
    return params


def build_requests(
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    wanted: Wanted,
    call_id: str,
    deadline: float,
    traceparent: str = "",
    param: str = "prompt",
    caller: Caller = ANYBODY,
) -> list[Request]:
    """One request for each prompt, all with `wanted.n` choices. Raises InvalidRequestError."""
    requests = []
    for index, prompt in enumerate(prompts):
        check_prompt(model, prompt, param if len(prompts) == 1 else f"{param}[{index}]")
        requests.append(
            Request(
                request_id=call_id if len(prompts) == 1 else f"{call_id}-{index}",
                model=model.name,
                prompt=tuple(prompt),
                sampling=sampling_params(model, len(prompt), wanted),
                # Workers know seeds as 64 bits; -1 and 2**64 - 1 are the same one.
                seed=random.getrandbits(64) if wanted.seed is None else wanted.seed & _MAX_SEED,
                deadline=deadline,
                outputs=dict.fromkeys(range(wanted.n), ()),
                traceparent=traceparent,
                tenant=caller.tenant,
                tenant_salt=caller.tenant_salt(wanted.cache_salt),
                cache_ttl_s=wanted.cache_ttl_s,
                priority=wanted.priority,
                affinity=wanted.affinity,
            )
        )
    return requests


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _top_k(value: int | None, vocab_size: int) -> int:
    """-1 is another spelling of 0, which turns it off; more than the vocabulary does nothing."""
    return 0 if value in (None, -1) else min(value or 0, vocab_size)
