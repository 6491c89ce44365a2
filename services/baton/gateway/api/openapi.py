"""/openapi.json, from the same schemas that requests are parsed with."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import TypeAdapter

from baton.gateway.api.openapi_paths import OPERATIONS, Operation

_REF = "#/components/schemas/{model}"
_ERRORS = (
    "400 bad request, 401 no valid API key, 403 not with this key, 404 not found, 413 body too "
    "large, 429 limit reached or queue full (see Retry-After), 503 no worker, 504 deadline passed"
)
_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "x-request-timeout",
        "Deadline in seconds",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
    ),
    (
        "x-request-id",
        "Given back with the answer; drawn when absent",
        {"type": "string", "maxLength": 128},
    ),
    (
        "x-session-id",
        "Requests with the same one are best served by the same worker",
        {"type": "string"},
    ),
    ("x-priority", "Class of the request: a name or a number", {"type": "string"}),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the gateway."""
    schemas = {
        schema.__name__: schema
        for operation in OPERATIONS
        for schema in (operation.answer, operation.body, operation.events, operation.error)
        if isinstance(schema, type)
    }
    adapters: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(schema)) for name, schema in schemas.items()
    ]
    references, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    schema_of = {name: schema for (name, _), schema in references.items()}
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Baton",
            "version": _version(),
            "description": "APIs of OpenAI, Anthropic and vLLM's tokenizer, and Baton's own.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Keys are asked for by setting.
        "security": [{}, {"key": []}],
    }


def _operation(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method}{operation.path}").strip("_"),
        "parameters": _parameters(operation),
        "responses": {
            str(operation.status): _answer(operation, schema_of),
            "default": {
                "description": _ERRORS,
                "content": {"application/json": {"schema": schema_of[operation.error.__name__]}},
            },
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body.__name__]}},
        }
    if operation.path == "/ready":
        described["responses"]["503"] = _answer(operation, schema_of)
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    in_query = [
        {"name": name, "in": "query", "schema": {"type": kind}} for name, kind in operation.query
    ]
    in_header = [
        {"name": name, "in": "header", "description": description, "schema": schema}
        for name, description, schema in _HEADERS
    ]
    return [*in_path, *in_query, *(in_header if operation.method == "post" else ())]


def _answer(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    if operation.answer is None:
        return {"description": operation.summary, "content": {"text/plain": {}}}
    schema = schema_of[operation.answer.__name__]
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    description = operation.summary
    if operation.events is not None:
        named = isinstance(operation.events, str)
        events = {} if named else {"schema": schema_of[operation.events.__name__]}
        content["text/event-stream"] = events
        description = f"{description}; {operation.events if named else 'chunks'} with `stream`"
    return {"description": description, "content": content}


def _version() -> str:
    try:
        return version("baton")
    except PackageNotFoundError:
        return "unknown"
