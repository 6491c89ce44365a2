"""One API call as it is remembered: its prompts' records, and what its client got."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from baton.gateway import errors
from baton.gateway.records.request_record import RequestRecord

if TYPE_CHECKING:
    from baton.gateway.answer.base import Answer, PromptSink

_MAX_MESSAGE_CHARS = 300


class PromptOutcome(NamedTuple):
    """What came of one prompt. Instants are the gateway's clock, 0 for what has not been."""

    record: RequestRecord
    num_choices: int
    num_tokens: int
    cached_tokens: int
    first_token_at: float
    last_token_at: float
    # Of each choice that has ended.
    finish_reasons: tuple[str, ...]


class CallRecord:
    """A call that has ended, or (`is_open`) what is known of one that goes on."""

    __slots__ = (
        "api",
        "arrived",
        "arrived_unix",
        "call_id",
        "code",
        "ended_at",
        "is_failed",
        "is_open",
        "is_slow",
        "max_gap_s",
        "message",
        "model",
        "num_prompts",
        "prompts",
        "request_id",
        "tenant",
        "traceparent",
    )

    def __init__(self, answer: Answer, now: float) -> None:
        first = answer.sinks[0].request
        metrics = answer.metrics
        self.num_prompts = len(answer.sinks)
        # Those of several prompts are numbered.
        several = self.num_prompts > 1
        self.call_id = first.request_id.rpartition("-")[0] if several else first.request_id
        self.request_id = answer.request_id or self.call_id
        self.api = metrics.api
        self.model = answer.model.name
        self.tenant = first.tenant
        self.traceparent = first.traceparent
        self.arrived = metrics.arrived
        # For people: the wall clock is asked once, and nothing is computed from it.
        self.arrived_unix = time.time() - (now - metrics.arrived)
        self.ended_at = now
        self.max_gap_s = metrics.max_gap_s
        self.is_open = not answer.over
        self.is_slow = False
        self.code, self.message, self.is_failed = _outcome(answer)
        # The last one's submission may have been refused.
        self.prompts = [
            _prompt(sink, record)
            for sink, record in zip(answer.sinks, answer.records, strict=False)
        ]

    @property
    def aliases(self) -> list[str]:
        """Ids beside its own that a client may know it by."""
        if self.num_prompts == 1:
            return [self.request_id]
        return [self.request_id, *(prompt.record.request_id for prompt in self.prompts)]

    @property
    def first_token_s(self) -> float | None:
        """From the arrival to the first token of all; None without one."""
        first = 0.0
        for prompt in self.prompts:
            if prompt.first_token_at and (not first or prompt.first_token_at < first):
                first = prompt.first_token_at
        return first - self.arrived if first else None


def _outcome(answer: Answer) -> tuple[str, str, bool]:
    """Code, message, and whether the service is to blame (not for refusals and cancels)."""
    if answer.error is not None:
        code, message = answer.error.code, answer.error.message[:_MAX_MESSAGE_CHARS]
        return code, message, errors.mapping(answer.error).http >= 500
    if answer.gone:
        return "cancelled", "the client went away", False
    return "ok" if answer.over else "open", "", False


def _prompt(sink: PromptSink, record: RequestRecord) -> PromptOutcome:
    outputs = sink.outputs
    if len(outputs) == 1:
        # Nearly always; spares the generators.
        (only,) = outputs
        finish_reasons = () if only.finish is None else (only.finish_name,)
        return PromptOutcome(
            record,
            1,
            only.num_tokens,
            sink.cached_tokens,
            only.first_at,
            only.token_at,
            finish_reasons,
        )
    return PromptOutcome(
        record,
        len(outputs),
        sum(output.num_tokens for output in outputs),
        sink.cached_tokens,
        min((output.first_at for output in outputs if output.first_at), default=0.0),
        max(output.token_at for output in outputs),
        tuple(output.finish_name for output in outputs if output.finish is not None),
    )


def is_slow(record: CallRecord, first_token_s: float, gap_s: float) -> bool:
    """Its first token, or another one, took longer than that; or none has come for so long."""
    first_s = record.first_token_s
    if first_s is None:
        first_s = record.ended_at - record.arrived
    return first_s > first_token_s or record.max_gap_s > gap_s
