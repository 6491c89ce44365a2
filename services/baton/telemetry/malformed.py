"""Bytes that are not the message a method takes: the call ends with INVALID_ARGUMENT.

gRPC itself answers UNKNOWN and logs a traceback, for it decodes where no handler can catch it. So
decoding never fails here; what cannot be decoded travels as an error, and is refused in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from baton.core.errors import InvalidRequestError, PayloadTooLargeError

Refuse = Callable[[Any, InvalidRequestError], Awaitable[None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


async def refuse_plainly(context: Any, error: InvalidRequestError) -> None:
    """Between our own processes the message is enough."""
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)


class MalformedInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Put it behind the one that checks tokens.

    `refuse(context, error)` aborts the call. A message above `max_bytes` is a PayloadTooLargeError:
    gRPC's own limit answers without details, so it should lie higher.
    """

    def __init__(self, refuse: Refuse = refuse_plainly, max_bytes: int | None = None) -> None:
        self._refuse = refuse
        self._max_bytes = max_bytes
        # Method to its handler, as registered and as guarded.
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return cast("Handler", None)  # no such method
        method: str = handler_call_details.method
        known = self._guarded.get(method)
        if known is None or known[0] is not handler:
            known = self._guarded[method] = (handler, self._guard(method, handler))
        return known[1]

    def _guard(self, method: str, handler: Any) -> Handler:
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        inner = getattr(handler, kind)
        behaviour = _many if handler.request_streaming else _one
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        guarded: Handler = make(
            behaviour(inner, self._refuse),
            request_deserializer=self._decoder(method, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return guarded

    def _decoder(
        self, method: str, decode: Callable[[bytes], Any] | None
    ) -> Callable[[bytes], Any]:
        """`decode` is None for a method that takes bytes as they are."""
        max_bytes = self._max_bytes

        def safe(raw: bytes) -> Any:
            if max_bytes is not None and len(raw) > max_bytes:
                return PayloadTooLargeError(
                    f"the message is {len(raw)} bytes long, the limit is {max_bytes}; send less"
                )
            try:
                return raw if decode is None else decode(raw)
            except DecodeError:
                return InvalidRequestError(
                    f"these bytes are not the protobuf message that {method} takes; make the "
                    "client from proto/baton/v1 of this version, or from the server's reflection"
                )

        return safe


def _one(inner: Any, refuse: Refuse) -> Any:
    """A handler of one request."""

    async def answer(request: Any, context: Any) -> Any:
        if isinstance(request, InvalidRequestError):
            await refuse(context, request)
        return await inner(request, context)

    async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
        if isinstance(request, InvalidRequestError):
            await refuse(context, request)
        async for response in inner(request, context):
            yield response

    return generate if inspect.isasyncgenfunction(inner) else answer


def _many(inner: Any, refuse: Refuse) -> Any:
    """A handler of a stream of requests."""

    async def answer(requests: Any, context: Any) -> Any:
        checked = _Checked(requests, context, refuse)
        response = await inner(checked, context)
        await checked.refuse_late()
        return response

    async def generate(requests: Any, context: Any) -> AsyncIterator[Any]:
        checked = _Checked(requests, context, refuse)
        async for response in inner(checked, context):
            yield response
        await checked.refuse_late()

    return generate if inspect.isasyncgenfunction(inner) else answer


class _Checked:
    """A stream of requests that ends before the first bad one; then the call is refused.

    A handler reads its first message itself, so there the refusal may be raised. Later ones may be
    read by a task, for whose failure nobody would answer.
    """

    def __init__(self, requests: Any, context: Any, refuse: Refuse) -> None:
        self._requests = aiter(requests)
        self._context = context
        self._refuse = refuse
        self._is_first = True
        self._error: InvalidRequestError | None = None

    def __aiter__(self) -> _Checked:
        return self

    async def __anext__(self) -> Any:
        if self._error is not None:
            raise StopAsyncIteration
        request = await anext(self._requests)
        if isinstance(request, InvalidRequestError):
            if self._is_first:
                await self._refuse(self._context, request)
            self._error = request
            raise StopAsyncIteration
        self._is_first = False
        return request

    async def refuse_late(self) -> None:
        if self._error is not None:
            await self._refuse(self._context, self._error)
