"""Every path of the gateway, for its OpenAPI document: one line or two for each."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from typing_extensions import TypedDict

from baton.gateway.api import anthropic, anthropic_answer, anthropic_bodies, bodies, schemas
from baton.gateway.api import responses_answer as responses
from baton.gateway.api.keys import NewKeyBody
from baton.gateway.api.operator import DrainBody, TrafficBody, UndrainBody
from baton.gateway.api.responses_bodies import ResponsesBody


class Anything(TypedDict):
    """A JSON object."""


class AnthropicErrorDetail(TypedDict):
    type: str
    message: str


class AnthropicErrorDocument(TypedDict):
    type: Literal["error"]
    error: AnthropicErrorDetail


class Operation(NamedTuple):
    """`events` is a schema, or the name of those who define the events."""

    method: str
    path: str
    summary: str
    answer: Any = Anything
    body: Any = None
    events: Any = None
    error: Any = schemas.ErrorDocument
    status: int = 200
    query: tuple[tuple[str, str], ...] = ()


_ANTHROPIC = AnthropicErrorDocument
_REQUESTS = (("limit", "integer"), ("slow", "boolean"), ("failed", "boolean"))

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a chat",
        schemas.ChatCompletion,
        bodies.ChatBody,
        schemas.ChatChunk,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text",
        schemas.Completion,
        bodies.CompletionBody,
        schemas.CompletionChunk,
    ),
    Operation(
        "post",
        "/v1/responses",
        "Answer, statelessly or going on from a kept response",
        responses.ResponseObject,
        ResponsesBody,
        "OpenAI's events, numbered by `sequence_number`",
    ),
    Operation("get", "/v1/responses/{response_id}", "A kept response", responses.ResponseObject),
    Operation("delete", "/v1/responses/{response_id}", "Forget a kept response"),
    Operation(
        "post",
        "/v1/messages",
        "Answer a chat, as Anthropic's API",
        anthropic_answer.Message,
        anthropic_bodies.MessagesBody,
        "Anthropic's events",
        _ANTHROPIC,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Count a prompt's tokens",
        anthropic.TokenCount,
        anthropic_bodies.PromptBody,
        None,
        _ANTHROPIC,
    ),
    Operation(
        "post", "/tokenize", "Token ids of a text or a chat", schemas.Tokenized, bodies.TokenizeBody
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of token ids",
        schemas.Detokenized,
        bodies.DetokenizeBody,
    ),
    Operation("get", "/v1/models", "The models served", schemas.ModelList),
    Operation("get", "/v1/models/{model}", "One model", schemas.ModelCard),
    Operation(
        "post",
        "/v1/baton/prefetch",
        "Have the KV of a prompt ready before its request comes",
        schemas.Prefetched,
        bodies.PrefetchBody,
        status=202,
    ),
    Operation("get", "/v1/baton/workers", "The live workers"),
    Operation(
        "post", "/v1/baton/workers/{id}/drain", "Have a worker take no new work", body=DrainBody
    ),
    Operation(
        "post", "/v1/baton/workers/{id}/undrain", "Have it take work again", body=UndrainBody
    ),
    Operation(
        "get",
        "/v1/baton/status",
        "Workers, revisions, and the times that requests took lately",
        query=(("quantile", "number"),),
    ),
    Operation("get", "/v1/baton/traffic", "How new requests are split between revisions"),
    Operation("put", "/v1/baton/traffic", "Set weights of revisions", body=TrafficBody),
    Operation("get", "/v1/baton/requests", "The newest calls", query=_REQUESTS),
    Operation("get", "/v1/baton/requests/{id}", "What became of a call, and why"),
    Operation("get", "/v1/baton/keys", "The API keys"),
    Operation("post", "/v1/baton/keys", "Make an API key", body=NewKeyBody, status=201),
    Operation("delete", "/v1/baton/keys/{id}", "Revoke an API key"),
    Operation("get", "/health", "The process answers"),
    Operation("get", "/ready", "Requests should be sent here (200), or why not (503)"),
    Operation("get", "/metrics", "Metrics in Prometheus' text format", None),
)
