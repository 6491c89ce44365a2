"""Answers of /v1/messages: one JSON document, or a stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson
from typing_extensions import TypedDict

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request
from baton.gateway.answer.base import Answer, Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.answer.stream import EventStream
from baton.gateway.api import anthropic_errors
from baton.gateway.api.prepare import ServedModel


class MessageUsage(TypedDict):
    """`input_tokens` are those that were computed: cached ones are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnswerBlock(TypedDict):
    type: Literal["text"]
    text: str


class Message(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class Stop(NamedTuple):
    """Why an answer ended, and the stop sequence if that was it."""

    reason: str
    sequence: str | None


def stop_of(output: ChoiceOutput, clamped: bool) -> Stop:
    """Why a choice has ended; `clamped`: it was allowed fewer tokens than were asked for."""
    if output.finish is FinishReason.LENGTH:
        return Stop("model_context_window_exceeded" if clamped else "max_tokens", None)
    return Stop("end_turn" if output.stop is None else "stop_sequence", output.stop)


def usage_of(answer: Answer) -> MessageUsage:
    """Tokens so far."""
    usage = answer.usage()
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }


class MessageDocument(Collected):
    """The answer in one piece."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        clamped: bool,
    ) -> None:
        super().__init__(model, requests, text, metrics, head=head)
        self._clamped = clamped

    def document(self) -> Message:
        (output,) = self.sinks[0].outputs
        stop = stop_of(output, self._clamped)
        return {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.model.name,
            "content": [{"type": "text", "text": self.text(output)}],
            "stop_reason": stop.reason,
            "stop_sequence": stop.sequence,
            "usage": usage_of(self),
        }


class MessageStream(EventStream):
    """The answer as events."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        clamped: bool,
    ) -> None:
        super().__init__(model, requests, text, metrics, details=False)
        self.tail = b"}}\n\n"
        self._id = head.id
        self._clamped = clamped

    def first_chunks(self, output: ChoiceOutput) -> None:
        output.prefix = _DELTA
        message: Message = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self.model.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(self),
        }
        self.write(_event("message_start", message=message))
        self.write(_BLOCK_START)

    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        if text:
            self.write(output.prefix + orjson.dumps(text) + self.tail)
        stop = stop_of(output, self._clamped)
        delta = {"stop_reason": stop.reason, "stop_sequence": stop.sequence}
        self.write(_BLOCK_STOP + _event("message_delta", delta=delta, usage=usage_of(self)))

    def on_complete(self) -> None:
        self.write(_MESSAGE_STOP)

    def error_event(self, error: BatonError) -> bytes:
        return b"event: error\ndata: " + anthropic_errors.body(error) + b"\n\n"


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


_BLOCK_START = _event(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
) + _event("ping")
_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
)
_BLOCK_STOP = _event("content_block_stop", index=0)
_MESSAGE_STOP = _event("message_stop")
