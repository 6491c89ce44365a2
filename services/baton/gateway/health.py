"""The endpoints that only look: health, readiness, metrics, models, workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from baton.core.errors import BatonError
from baton.gateway.asgi import response_headers, send_bytes, send_error, send_json
from baton.gateway.context import Context, ContextSource
from baton.gateway.prepare import ServedModel
from baton.gateway.schemas import ModelCard, ModelList
from baton.telemetry.metrics import CONTENT_TYPE

# (status, document) for a context and the request's path parameters.
View = Callable[[Context, dict[str, Any]], tuple[int, Any]]


class JsonView:
    """An ASGI app that answers with what a view gives."""

    def __init__(self, context: ContextSource, view: View) -> None:
        self._context = context
        self._view = view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = response_headers(scope)
        try:
            status, document = self._view(self._context(), scope["path_params"])
        except BatonError as error:
            await send_error(send, error, headers)
        else:
            await send_json(send, status, document, headers)


class MetricsView:
    """An ASGI app that answers in Prometheus' text format."""

    def __init__(self, context: ContextSource) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", CONTENT_TYPE.encode()), *response_headers(scope)]
        await send_bytes(send, 200, self._context().metrics.render(), headers)


def health(context: Context, _: dict[str, Any]) -> tuple[int, Any]:
    """GET /health: the process answers."""
    return 200, {"status": "ok"}


def ready(context: Context, _: dict[str, Any]) -> tuple[int, Any]:
    """GET /ready: there are workers that can serve a request."""
    reason = context.not_ready()
    if reason is None:
        return 200, {"status": "ready"}
    return 503, {"status": "not ready", "reason": reason}


def models(context: Context, _: dict[str, Any]) -> tuple[int, Any]:
    """GET /v1/models"""
    found: ModelList = {"object": "list", "data": [_card(m) for m in context.models.values()]}
    return 200, found


def model(context: Context, path: dict[str, Any]) -> tuple[int, Any]:
    """GET /v1/models/{model}"""
    return 200, _card(context.model(path["model"]))


def workers(context: Context, _: dict[str, Any]) -> tuple[int, Any]:
    """GET /v1/baton/workers"""
    return 200, {"object": "list", "data": context.workers()}


def _card(served: ServedModel) -> ModelCard:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "baton",
        "max_model_len": served.context_length,
    }
