"""API keys on gRPC: metadata `authorization: Bearer KEY` or `x-api-key: KEY`.

Every method needs a key with scope inference, apart from those that only tell what there is, which
need any key, and those that probes and clients' tools ask, which need none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import grpc

from baton.core.errors import BatonError
from baton.gateway.context import Context
from baton.gateway.keys.access import INFERENCE, Access
from baton.gateway.keys.caller import ANYBODY, Caller
from baton.telemetry.rpc import REFUSE_AFTER_S

# Services by their beginning, and single methods.
_OPEN = ("/grpc.health.", "/grpc.reflection.")
_PROBES = frozenset({"ServerLive", "ServerReady"})
_LISTS = frozenset({"ListModels", "ServerMetadata", "ModelMetadata", "ModelReady"})
_NAMES = ("authorization", "x-api-key")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Abort = Callable[[Any, BatonError], Awaitable[Any]]


def key_headers(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[bytes, bytes]]:
    """What a call's metadata says of its key, as HTTP's headers do."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in metadata or ()
        if name in _NAMES
    ]


# Who makes a call: gRPC calls its handler in the context that the interceptors leave.
_caller: ContextVar[Caller] = ContextVar("caller")


def caller_of_call(access: Access | None) -> Caller:
    """Who makes the call that is handled, as its interceptor found."""
    return ANYBODY if access is None else _caller.get()


def identify_again(access: Access | None, call: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Who makes a call that lasts: its key may have ended since it came. Raises BatonError."""
    if access is None:
        return ANYBODY
    return access.identify(key_headers(call.invocation_metadata()), INFERENCE)


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses, by `abort(context, error)`, calls whose key does not allow them.

    Nothing is read of those. `caller_of_call` tells the others' handlers who calls.
    """

    def __init__(self, context: Context, abort: Abort) -> None:
        self._context = context
        self._abort = abort

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        access = self._context.access
        details = cast(Any, handler_call_details)
        if access is None or details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        method = details.method.rpartition("/")[2]
        if method not in _PROBES:
            needed = None if method in _LISTS else INFERENCE
            try:
                _caller.set(access.identify(key_headers(details.invocation_metadata), needed))
            except BatonError as error:
                return self._refusal(error)
        return await continuation(handler_call_details)

    def _refusal(self, error: BatonError) -> Handler:
        async def refuse(_: Any, call: grpc.aio.ServicerContext[Any, Any]) -> None:
            await asyncio.sleep(REFUSE_AFTER_S)
            await self._abort(call, error)

        # On the wire a stream of both kinds covers all others, and it refuses before it reads.
        return grpc.stream_stream_rpc_method_handler(cast(Any, refuse))
