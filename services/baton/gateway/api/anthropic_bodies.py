"""The bodies of Anthropic's API: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from baton.gateway.api.bodies import TEXT_OR_LIST, Body, CachingBody, PriorityField, Unserved


class InputMessage(Body):
    """One turn; turns of one role that follow each other count as one."""

    role: Literal["user", "assistant", "system"]
    content: Any = Field(json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or blocks of type text, tool_use, tool_result and thinking."""


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: Any = None
    """Accepted: prompts are cached by their content."""
    citations: Any = None
    """Accepted, as answers have it; not used."""


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None
    """Accepted; not checked."""


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Any = None
    caller: Any = None
    toolset_name: str | None = None


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Any = Field(None, json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or text blocks."""
    is_error: bool | None = None
    cache_control: Any = None
    toolset_name: str | None = None


class PromptBody(CachingBody):
    """POST /v1/messages/count_tokens: what a prompt is made of."""

    messages: list[InputMessage]
    """The chat so far. An assistant's turn at its end is gone on with."""
    system: Any = Field(None, json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or text blocks."""
    thinking: Annotated[Any, Unserved({"type": "disabled"})] = None
    """Only of type `disabled`."""
    tools: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    tool_choice: Annotated[Any, Unserved({"type": "none"}, {"type": "auto"})] = None
    """Not served yet."""
    output_config: Annotated[Any, Unserved({})] = None
    """Not served yet."""
    mcp_servers: Annotated[Any, Unserved([])] = None
    """Not served."""
    context_management: Annotated[Any, Unserved({})] = None
    """Not served."""
    compaction: Annotated[Any, Unserved({})] = None
    """Not served."""
    speed: Annotated[Any, Unserved("standard")] = None
    """Only `standard`."""
    cache_control: Any = None
    """Accepted: prompts are cached by their content."""
    user_profile_id: str | None = None
    """Accepted; not used."""
    workspace_id: str | None = None
    """Accepted; not used."""


class Metadata(Body):
    """Who asks."""

    user_id: str | None = None
    """Requests of one user are best served by the same worker."""


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    """Most tokens to generate; fewer where the model's context ends first."""
    temperature: float | None = None
    """0 (greedy) to 2; 1 by default."""
    top_p: float | None = None
    """Nucleus mass, above 0 to 1."""
    top_k: int | None = None
    """Keep the k likeliest tokens; 0 turns it off."""
    stop_sequences: list[str] | None = None
    """Up to 16 texts that end the answer and are no part of it."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated."""
    metadata: Metadata | None = None
    priority: PriorityField | str | None = None
    """As for OpenAI's APIs."""
    service_tier: str | None = None
    """Accepted; there is one tier."""
    inference_geo: str | None = None
    """Accepted; not used."""
    diagnostics: Any = None
    """Accepted; not used."""
    billing_policy: Any = None
    """Accepted; not used."""
    container: Annotated[Any, Unserved()] = None
    """Not served."""
    thread: Annotated[Any, Unserved()] = None
    """Not served."""
    fallbacks: Annotated[Any, Unserved([])] = None
    """Not served."""
    fallback_credit_token: Annotated[Any, Unserved()] = None
    """Not served."""
