"""A request as every part of Baton sees it, from the gateway to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from baton.core.errors import InvalidRequestError


class FinishReason(IntEnum):
    """Why a choice ended; the values are those of the wire's FinishReason."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    ERROR = 4


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How logits become tokens. Ranges follow OpenAI's API and vLLM's extensions.

    `max_tokens` and `min_tokens` count a choice's whole output, replayed tokens included.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0

    def check(self) -> None:
        """Raise InvalidRequestError, naming the parameter, when a value is out of range."""
        for name, low, high in (
            ("temperature", 0.0, 2.0),
            ("min_p", 0.0, 1.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidRequestError(
                    f"{name} must be between {low:g} and {high:g}, got {value:g}", param=name
                )
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequestError(
                f"top_p must be above 0 and at most 1, got {self.top_p:g}", param="top_p"
            )
        for name, least in (("max_tokens", 1), ("min_tokens", 0), ("top_k", 0)):
            if getattr(self, name) < least:
                raise InvalidRequestError(
                    f"{name} must be at least {least}, got {getattr(self, name)}", param=name
                )
        if self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})",
                param="min_tokens",
            )
        for token, bias in self.logit_bias.items():
            if not -100.0 <= bias <= 100.0:
                raise InvalidRequestError(
                    f"logit_bias of token {token} must be between -100 and 100, got {bias:g}",
                    param="logit_bias",
                )


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the choices wanted for it: all that a worker needs, or a replay.

    `outputs` maps a choice's index to the tokens it already has (empty when fresh), so its length
    is OpenAI's `n`. Deadlines are instants of `time.monotonic()` in this process; only the time
    left crosses the wire.
    """

    request_id: str
    model: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    deadline: float
    outputs: Mapping[int, tuple[int, ...]] = field(
        default_factory=lambda: MappingProxyType({0: ()})
    )
    lora_id: str = ""
    lora_revision: str = ""
    tenant_salt: str = ""
    grammar: str = ""
    # Higher goes first, where the queue policy knows priorities.
    priority: int = 0
    # Whose share of the service it takes; empty for anybody without a key.
    tenant: str = ""
    # Requests with the same one are best served by the same worker (a conversation, a user).
    affinity: str = ""
    traceparent: str = ""
    # Seconds for which the KV of prompt and output is to stay cached after the end.
    cache_ttl_s: float = 0.0

    @property
    def num_choices(self) -> int:
        return len(self.outputs)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probability of a sampled token, and the likeliest tokens with theirs."""

    logprob: float
    top_tokens: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
