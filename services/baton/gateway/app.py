"""The gateway's ASGI app."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from baton.core.errors import (
    BatonError,
    MethodNotAllowedError,
    NotFoundError,
    UnavailableError,
)
from baton.gateway import errors
from baton.gateway.api import anthropic_errors, health, openapi
from baton.gateway.api import keys as key_api
from baton.gateway.api import operator as operator_api
from baton.gateway.api import requests as explain_api
from baton.gateway.api.anthropic import CountTokens, Messages
from baton.gateway.api.openai import ChatCompletions, Completions
from baton.gateway.api.prefetch import Prefetch
from baton.gateway.api.responses import Responses, stored_response
from baton.gateway.api.tokenize import Detokenize, Tokenize
from baton.gateway.context import Context
from baton.gateway.http.arrival import prepare_scope
from baton.gateway.http.view import Answer, View
from baton.telemetry.metrics import CONTENT_TYPE

_CLOSE = (b"connection", b"close")
OpenContext = Callable[[], AbstractAsyncContextManager[Context]]


class GatewayApp(Starlette):
    """Routes, and errors in OpenAI's form. `context` is there while the app is started."""

    def __init__(self, open_context: OpenContext | None) -> None:
        self.context: Context | None = None
        self._open_context = open_context
        source = self._source
        self._posts: dict[str, ASGIApp] = {
            "/v1/chat/completions": ChatCompletions(source),
            "/v1/completions": Completions(source),
            "/v1/responses": Responses(source),
            "/v1/messages": Messages(source),
            "/v1/messages/count_tokens": CountTokens(source),
            "/tokenize": Tokenize(source),
            "/detokenize": Detokenize(source),
            "/v1/baton/prefetch": Prefetch(source),
            "/v1/baton/keys": key_api.NewKey(source),
        }

        def view(path: str, answer: Answer, *methods: str) -> Route:
            return Route(path, View(source, answer), methods=methods or ["GET"])

        def post(path: str, endpoint: ASGIApp) -> Route:
            return Route(path, endpoint, methods=["POST"])

        metrics = View(source, health.metrics, bytes, CONTENT_TYPE)
        routes = [
            # Its POSTs never come here (see `__call__`); a refusal is to name both methods.
            view("/v1/baton/keys", key_api.listed, "GET", "POST"),
            *(post(path, endpoint) for path, endpoint in self._posts.items()),
            view("/v1/responses/{response_id}", stored_response, "GET", "DELETE"),
            view("/v1/models", health.models),
            view("/v1/models/{model:path}", health.model),
            view("/v1/baton/requests", explain_api.newest),
            view("/v1/baton/requests/{id:path}", explain_api.one),
            view("/v1/baton/keys/{id}", key_api.revoked, "DELETE"),
            view("/v1/baton/workers", health.workers),
            post("/v1/baton/workers/{id}/drain", operator_api.Drain(source)),
            post("/v1/baton/workers/{id}/undrain", operator_api.Undrain(source)),
            view("/v1/baton/status", operator_api.status),
            Route("/v1/baton/traffic", operator_api.TrafficApp(source), methods=["GET", "PUT"]),
            view("/health", health.health),
            view("/ready", health.ready),
            Route("/metrics", metrics, methods=["GET"]),
            view("/openapi.json", _schema),
        ]
        super().__init__(
            routes=routes,
            exception_handlers={HTTPException: _refused, Exception: _bug},
            lifespan=self._lifespan,
        )
        self.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prepare_scope(scope)
            if self.context is not None and self.context.is_leaving:
                # The client's next request is to go to another gateway.
                scope["baton.headers"].append(_CLOSE)
            # POSTs map their errors themselves. The way through Starlette, a pass over the routes
            # and three more layers around every message, costs a short request more than parsing.
            if scope["method"] == "POST" and (endpoint := self._posts.get(scope["path"])):
                await endpoint(scope, receive, send)
                return
            context = self.context
            if context is not None:
                guard = context.operations.access.guard
                if not await guard(context.access, scope, send):
                    return
        await super().__call__(scope, receive, send)

    def _source(self) -> Context:
        if self.context is None:
            raise UnavailableError("the gateway is not started; try again")
        return self.context

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if self._open_context is None:
            yield
            return
        async with self._open_context() as self.context:
            yield
        self.context = None


def create_app(context: Context) -> GatewayApp:
    """The app for a context that somebody else opens and closes."""
    app = GatewayApp(None)
    app.context = context
    return app


def create_lifespan_app(open_context: OpenContext) -> GatewayApp:
    """The app that opens its context when the server starts it, and closes it at the end."""
    return GatewayApp(open_context)


async def _schema(*_: object) -> tuple[int, Any]:
    return 200, openapi.document()


def _refused(request: Request, refusal: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(refusal, HTTPException)
    path = request.url.path[:256]
    error: BatonError
    if refusal.status_code == 405:
        allowed = (refusal.headers or {}).get("Allow", "")
        error = MethodNotAllowedError(
            f"Not allowed to {request.method} on {path} (allowed: {allowed}).", allowed=allowed
        )
    else:
        error = NotFoundError(f"Unknown request URL: {request.method} {path}. See /openapi.json.")
    return _response(request, error)


def _bug(request: Request, bug: Exception) -> Response:
    return _response(request, errors.internal(bug))


def _response(request: Request, error: BatonError) -> Response:
    is_anthropics = request.url.path.startswith("/v1/messages")
    body = anthropic_errors.body(error) if is_anthropics else errors.body(error)
    response = Response(body, errors.mapping(error).http, media_type="application/json")
    response.raw_headers += [*errors.headers(error), *request.scope["baton.headers"]]
    return response
