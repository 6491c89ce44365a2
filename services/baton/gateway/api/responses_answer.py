"""Answers of /v1/responses: one JSON document, or a stream of events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from typing_extensions import TypedDict

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request
from baton.gateway.answer import logprobs
from baton.gateway.answer.base import Answer, Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.logprobs import TokenRecord
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.answer.stream import EventStream
from baton.gateway.api.prepare import ServedModel
from baton.gateway.api.schemas import TokenLogprob

Keep = Callable[["ResponseObject"], Awaitable[bool]]
"""Keeps a finished response; False when it could not be kept."""


class InputDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class OutputMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: str
    content: list[OutputText]


class ResponseObject(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: str | None
    background: bool
    reasoning: dict[str, None]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str
    tools: list[Any]
    top_p: float
    top_logprobs: int
    truncation: str
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class Frame(NamedTuple):
    """A response before it has any output, the id of its message, and who keeps it."""

    response: ResponseObject
    item_id: str
    keep: Keep | None


def usage_of(answer: Answer) -> ResponseUsage:
    """Tokens so far."""
    usage = answer.usage()
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


async def finished(
    answer: Answer, frame: Frame, output: ChoiceOutput, part: OutputText
) -> ResponseObject:
    """The response of a complete answer, kept where it is to be."""
    whole = output.finish is not FinishReason.LENGTH
    status = "completed" if whole else "incomplete"
    response: ResponseObject = {
        **frame.response,
        "completed_at": int(time.time()) if whole else None,
        "status": status,
        "incomplete_details": None if whole else {"reason": "max_output_tokens"},
        "output": [_message(frame, status, [part])],
        "usage": usage_of(answer),
        "store": frame.keep is not None,
    }
    if frame.keep is not None and not await frame.keep(response):
        response["store"] = False
    return response


class ResponseDocument(Collected):
    """The answer in one piece."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        frame: Frame,
    ) -> None:
        super().__init__(model, requests, text, metrics, head=head)
        self._frame = frame
        self._response = frame.response

    async def conclude(self) -> None:
        (output,) = self.sinks[0].outputs
        part = _part(self.text(output), output.records, self.head)
        self._response = await finished(self, self._frame, output, part)

    def document(self) -> ResponseObject:
        return self._response


class ResponseStream(EventStream):
    """The answer as numbered events."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        frame: Frame,
    ) -> None:
        super().__init__(model, requests, text, metrics, details=True)
        self.head = head
        self._frame = frame
        self._num_events = 0
        self._texts: list[str] = []
        self._records: list[TokenRecord] = []

    def first_chunks(self, output: ChoiceOutput) -> None:
        frame = self._frame
        self._event("response.created", response=frame.response)
        self._event("response.in_progress", response=frame.response)
        item = _message(frame, "in_progress", [])
        self._event("response.output_item.added", output_index=0, item=item)
        self._text_event("response.content_part.added", part=_part("", [], self.head))

    def detailed_chunk(self, output: ChoiceOutput, text: str, finish: str | None) -> None:
        records, output.records = output.records, []
        self._texts.append(text)
        if self.head.logprobs:
            self._records += records
        shown = _logprobs(records, self.head)
        self._text_event("response.output_text.delta", delta=text, logprobs=shown)

    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        if text or (self.head.logprobs and output.records):
            self.detailed_chunk(output, text, None)

    async def conclude(self) -> None:
        (output,) = self.sinks[0].outputs
        part = _part("".join(self._texts), self._records, self.head)
        response = await finished(self, self._frame, output, part)
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        self._text_event("response.output_text.done", **done)
        self._text_event("response.content_part.done", part=part)
        item = response["output"][0]
        self._event("response.output_item.done", output_index=0, item=item)
        self._event(f"response.{response['status']}", response=response)

    def error_event(self, error: BatonError) -> bytes:
        shown = {"code": error.code, "message": error.message, "param": error.param}
        failed: ResponseObject = {
            **self._frame.response,
            "status": "failed",
            "error": {"code": "server_error", "message": error.message},
            "store": False,
        }
        return self._render("error", shown) + self._render("response.failed", {"response": failed})

    def _text_event(self, kind: str, **fields: Any) -> None:
        self._event(kind, item_id=self._frame.item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> None:
        self.write(self._render(kind, fields))

    def _render(self, kind: str, fields: dict[str, Any]) -> bytes:
        document = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(document))


def _message(frame: Frame, status: str, content: list[OutputText]) -> OutputMessage:
    return {
        "id": frame.item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _part(text: str, records: Sequence[TokenRecord], head: Head) -> OutputText:
    shown = _logprobs(records, head)
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": shown}


def _logprobs(records: Sequence[TokenRecord], head: Head) -> list[TokenLogprob]:
    if not head.logprobs:
        return []
    return logprobs.chat(records, head.token_bytes)["content"]
