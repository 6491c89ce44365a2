"""The bodies of OpenAI's /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from baton.gateway.api.bodies import TEXT_OR_LIST, Body, NumLogprobs, SamplingBody, Unserved

Metadata = dict[
    Annotated[str, Field(max_length=64)],
    Annotated[str, Field(max_length=512)],
]


class ResponseStreamOptions(Body):
    """How to stream."""

    include_obfuscation: bool | None = None
    """Accepted; nothing is padded here."""


class ResponsesBody(SamplingBody):
    """POST /v1/responses."""

    input: Any = Field(json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or items of type message, function_call, function_call_output and reasoning."""
    instructions: str | None = None
    """Goes first, as a system message, and is not kept for later turns."""
    previous_response_id: str | None = None
    """A response that was kept: its conversation goes before the input."""
    store: bool | None = None
    """Keep the response for a while (gateway.response_ttl_s); true by default."""
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Most tokens to generate; fewer where the model's context ends first."""
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    """Given back with the response."""
    include: list[str] | None = None
    """`message.output_text.logprobs`; others are about items that do not come."""
    top_logprobs: NumLogprobs | None = None
    """Likeliest tokens that come with logprobs."""
    stream_options: ResponseStreamOptions | None = None
    """Only with `stream`."""
    parallel_tool_calls: bool | None = None
    """Accepted; there are no tools yet."""
    max_tool_calls: int | None = None
    """Accepted; there are no tools yet."""
    tools: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    tool_choice: Annotated[Any, Unserved("none", "auto")] = None
    """Not served yet."""
    text: Annotated[
        Any, Unserved({}, {"format": {"type": "text"}}, what="text other than {'format': text}")
    ] = None
    """Only of format `text`."""
    reasoning: Annotated[Any, Unserved({}, {"effort": None, "summary": None})] = None
    """Not served yet."""
    background: Annotated[Any, Unserved(False)] = None
    """Not served."""
    conversation: Annotated[Any, Unserved()] = None
    """Not served; use `previous_response_id`."""
    prompt: Annotated[Any, Unserved()] = None
    """Not served."""
    truncation: Annotated[Any, Unserved("disabled", what="truncation other than disabled")] = None
    """Only `disabled`."""
    context_management: Annotated[Any, Unserved([])] = None
    """Not served."""
    access_programs: Annotated[Any, Unserved({})] = None
    """Not served."""
    image: Annotated[Any, Unserved({})] = None
    """Not served."""


class MessageItem(Body):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Any = Field(json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or parts of type input_text and output_text."""
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(Body):
    """A tool that the assistant called."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    caller: Any = None


class FunctionOutputItem(Body):
    """What the tool gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Any = Field(json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or parts of type input_text."""
    id: str | None = None
    status: str | None = None
    name: str | None = None
    namespace: str | None = None
    caller: Any = None


class ReasoningItem(Body):
    """What the assistant thought."""

    type: Literal["reasoning"]
    summary: Any = None
    content: Any = None
    """Parts of type reasoning_text; the summary's stand in for them."""
    id: str | None = None
    status: str | None = None
    encrypted_content: Annotated[Any, Unserved()] = None
    """Not served."""
