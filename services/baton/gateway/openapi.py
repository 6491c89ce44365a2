"""/openapi.json, from the same schemas that requests are parsed with."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import TypeAdapter

from baton.gateway.schemas import (
    ChatBody,
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionBody,
    CompletionChunk,
    ErrorDocument,
    ModelCard,
    ModelList,
    PrefetchBody,
    Prefetched,
)

_REF = "#/components/schemas/{model}"
_SCHEMAS: dict[str, Any] = {
    "CompletionBody": CompletionBody,
    "ChatBody": ChatBody,
    "Completion": Completion,
    "CompletionChunk": CompletionChunk,
    "ChatCompletion": ChatCompletion,
    "ChatChunk": ChatChunk,
    "ModelList": ModelList,
    "ModelCard": ModelCard,
    "PrefetchBody": PrefetchBody,
    "Prefetched": Prefetched,
    "ErrorDocument": ErrorDocument,
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the gateway."""
    adapters: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(schema)) for name, schema in _SCHEMAS.items()
    ]
    references, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    schema_of = {name: schema for (name, _), schema in references.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Baton",
            "version": _version(),
            "description": "OpenAI-compatible completions with prefill and decode kept apart.",
        },
        "paths": {
            "/v1/chat/completions": {
                "post": _generation(
                    schema_of, "Answer a chat", "ChatBody", "ChatCompletion", "ChatChunk"
                )
            },
            "/v1/completions": {
                "post": _generation(
                    schema_of, "Continue a text", "CompletionBody", "Completion", "CompletionChunk"
                )
            },
            "/v1/models": {"get": _get("The models served", schema_of["ModelList"])},
            "/v1/models/{model}": {
                "get": {
                    **_get("One model", schema_of["ModelCard"]),
                    "parameters": [
                        {
                            "name": "model",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string"},
                        }
                    ],
                }
            },
            "/v1/baton/prefetch": {
                "post": _post(
                    schema_of,
                    "Have the KV of a prompt ready before its request comes",
                    "PrefetchBody",
                    {
                        "202": {
                            "description": "Which workers were told; what they have is not known",
                            "content": {"application/json": {"schema": schema_of["Prefetched"]}},
                        }
                    },
                )
            },
            "/v1/baton/workers": {"get": _get("The live workers", {"type": "object"})},
            "/health": {"get": _get("The process answers", {"type": "object"})},
            "/ready": {
                "get": _get(
                    "Workers can serve (200), or why not (503)", {"type": "object"}, unready=True
                )
            },
            "/metrics": {
                "get": {
                    "summary": "Metrics in Prometheus' text format",
                    "responses": {"200": {"description": "Metrics", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": definitions.get("$defs", {}) and {"schemas": definitions["$defs"]},
    }


def _generation(
    schema_of: dict[str, Any], summary: str, body: str, answer: str, chunk: str
) -> dict[str, Any]:
    answers = {
        "200": {
            "description": "The answer; events of chunks when `stream` is true",
            "content": {
                "application/json": {"schema": schema_of[answer]},
                "text/event-stream": {"schema": schema_of[chunk]},
            },
        }
    }
    return _post(schema_of, summary, body, answers)


def _post(
    schema_of: dict[str, Any], summary: str, body: str, answers: dict[str, Any]
) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [
            {
                "name": "x-request-timeout",
                "in": "header",
                "description": "Deadline in seconds",
                "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
            },
            {
                "name": "x-request-id",
                "in": "header",
                "description": "Given back with the answer; drawn when absent",
                "schema": {"type": "string", "maxLength": 128},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema_of[body]}},
        },
        "responses": {
            **answers,
            "default": {
                "description": "400 bad request, 404 unknown model, 413 body too large, 429 queue "
                "full (see Retry-After), 503 no worker, 504 deadline passed",
                "content": {"application/json": {"schema": schema_of["ErrorDocument"]}},
            },
        },
    }


def _get(summary: str, schema: dict[str, Any], *, unready: bool = False) -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {"schema": schema}}}
    responses = {"200": answer, "503": answer} if unready else {"200": answer}
    return {"summary": summary, "responses": responses}


def _version() -> str:
    try:
        return version("baton")
    except PackageNotFoundError:
        return "unknown"
