"""The gateway's ASGI app."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from baton.core.errors import BatonError, UnavailableError
from baton.gateway import errors, health, openapi
from baton.gateway.admission import prepare_scope
from baton.gateway.context import Context
from baton.gateway.errors import MethodNotAllowedError, NotFoundError
from baton.gateway.health import JsonView, MetricsView
from baton.gateway.openai import ChatCompletions, Completions
from baton.gateway.prefetch import Prefetch

OpenContext = Callable[[], AbstractAsyncContextManager[Context]]


class GatewayApp(Starlette):
    """Routes, and errors in OpenAI's form. `context` is there while the app is started."""

    def __init__(self, open_context: OpenContext | None) -> None:
        self.context: Context | None = None
        self._open_context = open_context
        source = self._source
        posts: dict[str, ASGIApp] = {
            "/v1/chat/completions": ChatCompletions(source),
            "/v1/completions": Completions(source),
            "/v1/baton/prefetch": Prefetch(source),
        }
        get = ["GET"]
        routes = [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            Route("/v1/models", JsonView(source, health.models), methods=get),
            Route("/v1/models/{model:path}", JsonView(source, health.model), methods=get),
            Route("/v1/baton/workers", JsonView(source, health.workers), methods=get),
            Route("/health", JsonView(source, health.health), methods=get),
            Route("/ready", JsonView(source, health.ready), methods=get),
            Route("/metrics", MetricsView(source), methods=get),
            Route(
                "/openapi.json",
                JsonView(source, lambda *_: (200, openapi.document())),
                methods=get,
            ),
        ]
        super().__init__(
            routes=routes,
            middleware=[Middleware(_Direct, posts=posts)],
            exception_handlers={HTTPException: _refused, Exception: _bug},
            lifespan=self._lifespan,
        )
        self.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prepare_scope(scope)
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


class _Direct:
    """Hands POSTs to endpoints that map their errors themselves past the rest of Starlette.

    Its way there, a pass over the routes and two more layers around every message, costs a short
    request more than its parsing.
    """

    def __init__(self, app: ASGIApp, posts: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._posts = posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST":
            app = self._posts.get(scope["path"], app)
        await app(scope, receive, send)


def create_app(context: Context) -> GatewayApp:
    """The app for a context that somebody else opens and closes."""
    app = GatewayApp(None)
    app.context = context
    return app


def create_lifespan_app(open_context: OpenContext) -> GatewayApp:
    """The app that opens its context when the server starts it, and closes it at the end."""
    return GatewayApp(open_context)


def _refused(request: Request, refusal: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(refusal, HTTPException)
    path = request.url.path[:256]
    error: BatonError
    if refusal.status_code == 405:
        allowed = (refusal.headers or {}).get("Allow", "")
        error = MethodNotAllowedError(
            f"Not allowed to {request.method} on {path} (allowed: {allowed}).", allowed
        )
    else:
        error = NotFoundError(f"Unknown request URL: {request.method} {path}. See /openapi.json.")
    return _response(request, error)


def _bug(request: Request, bug: Exception) -> Response:
    return _response(request, errors.internal(bug))


def _response(request: Request, error: BatonError) -> Response:
    response = Response(
        errors.body(error), errors.mapping(error).http, media_type="application/json"
    )
    response.raw_headers += [*errors.headers(error), *request.scope["baton.headers"]]
    return response
