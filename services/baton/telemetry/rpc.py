"""gRPC of the embedded store: the deployment's token, TLS, keepalive, limits, ports.

Every call carries the metadata `authorization: Bearer <deployment token>`. Servers refuse calls
without it, apart from health checks; clients get a channel that adds it by itself. After `use_tls`
(`deployment_tls.py`) both ends speak mutual TLS.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import grpc

from baton.core.errors import ConfigError
from baton.core.token import EMPTY_TOKEN, NAME_THE_FILE
from baton.telemetry.addresses import cannot_listen, check_bindable, join_address
from baton.telemetry.certificates import Certificates, Identity
from baton.telemetry.deployment_tls import DeploymentTls, deployment_tls
from baton.telemetry.malformed import MalformedInterceptor
from baton.telemetry.rpc_tls import RenewedChannel, channel_credentials, server_credentials

Metadata = tuple[tuple[str, str], ...]

HEALTH_PREFIX = "/grpc.health.v1.Health/"
# A peer that answers no ping for 5 s after 5 s of silence is gone.
KEEPALIVE_MS = 5000
# grpc.aio's client shows INTERNAL in place of the server's status when one of its writes meets the
# end of the stream (grpc/grpc#36066; 1 in 100 refusals, tried): let the first writes pass before.
REFUSE_AFTER_S = 0.05

_COMMON_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CLIENT_OPTIONS: list[tuple[str, Any]] = [
    *_COMMON_OPTIONS,
    # A channel that shared connections would also share another channel's wait after a failure.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Core's name for the least time that an attempt to connect is given.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # Inner hops never go through the proxy that the environment names for the outside world.
    ("grpc.enable_http_proxy", 0),
]
_SERVER_OPTIONS: list[tuple[str, Any]] = [
    *_COMMON_OPTIONS,
    # Two processes on one port would share its callers at random.
    ("grpc.so_reuseport", 0),
    # Clients ping every 5 s; the default would end such a connection with "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
]


def auth_metadata(token: str) -> Metadata:
    """What a call carries to prove that it comes from this deployment."""
    return (("authorization", f"Bearer {token}"),)


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Answers UNAUTHENTICATED to callers without the deployment's token; health is open to all."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ConfigError(EMPTY_TOKEN)
        self._expected = auth_metadata(token)[0][1].encode()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        details = cast(Any, handler_call_details)
        if details.method.startswith(HEALTH_PREFIX):
            return await continuation(handler_call_details)
        shown = [v for k, v in details.invocation_metadata or () if k == "authorization"]
        if any(hmac.compare_digest(_raw(value), self._expected) for value in shown):
            return await continuation(handler_call_details)
        return _DENY_WRONG if shown else _DENY_MISSING


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _deny(reason: str) -> grpc.RpcMethodHandler[Any, Any]:
    message = f"{reason}: {NAME_THE_FILE}, or send `authorization: Bearer TOKEN`"

    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await asyncio.sleep(REFUSE_AFTER_S)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    # On the wire a stream of both kinds covers all others, and it refuses before it reads.
    return grpc.stream_stream_rpc_method_handler(cast(Any, refuse))


_DENY_MISSING = _deny("the call carries no deployment token")
_DENY_WRONG = _deny("the call's token is not this deployment's")


class _TokenChannel:
    """A channel whose calls carry `metadata`.

    Client interceptors would do the same, but they put a queue and a task into every stream, which
    the token plane would pay for with each frame.
    """

    def __init__(self, inner: grpc.aio.Channel, metadata: Metadata) -> None:
        self._inner = inner
        self._metadata = metadata

    def _wrap(self, multi_callable: Any) -> Any:
        own = self._metadata

        def call(*args: Any, metadata: Sequence[tuple[str, str]] | None = None, **kw: Any) -> Any:
            return multi_callable(*args, metadata=(*own, *(metadata or ())), **kw)

        return call

    def unary_unary(self, *args: Any, **kw: Any) -> Any:
        return self._wrap(self._inner.unary_unary(*args, **kw))

    def unary_stream(self, *args: Any, **kw: Any) -> Any:
        return self._wrap(self._inner.unary_stream(*args, **kw))

    def stream_unary(self, *args: Any, **kw: Any) -> Any:
        return self._wrap(self._inner.stream_unary(*args, **kw))

    def stream_stream(self, *args: Any, **kw: Any) -> Any:
        return self._wrap(self._inner.stream_stream(*args, **kw))

    async def __aenter__(self) -> _TokenChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()


def channel(address: str, token: str) -> grpc.aio.Channel:
    """A channel to `HOST:PORT` whose every call, unary or stream, carries the token."""
    tls = deployment_tls()
    inner = _secure(address, tls) if tls else _insecure(address)
    return cast(grpc.aio.Channel, _TokenChannel(inner, auth_metadata(token)))


def _insecure(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=_CLIENT_OPTIONS)


def _secure(address: str, tls: DeploymentTls) -> grpc.aio.Channel:
    options = [*_CLIENT_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name)]

    def connect(identity: Identity) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, channel_credentials(identity), options=options)

    return cast(grpc.aio.Channel, RenewedChannel(tls.certificates, connect))


def server(
    token: str | None, interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = ()
) -> grpc.aio.Server:
    """A server that asks callers for `token` (None: for nothing). Bind it with `listen`."""
    auth = [] if token is None else [TokenInterceptor(token)]
    return grpc.aio.server(
        interceptors=[*auth, MalformedInterceptor(), *interceptors], options=_SERVER_OPTIONS
    )


def listen(grpc_server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind to `host` for this deployment's processes; the port (the one drawn when `port` is 0).

    Raises ConfigError that names host and port when the address cannot be had.
    """
    tls = deployment_tls()
    return bind(grpc_server, host, port, tls.certificates if tls else None)


def bind(
    grpc_server: grpc.aio.Server,
    host: str,
    port: int,
    certificates: Certificates | None,
    *,
    shared: bool = False,
) -> int:
    """As `listen`, for whoever may call: with TLS by `certificates`, or without.

    A `shared` port may be another process's of ours: whoever starts the first of them has tried it.
    """
    if not shared:
        # grpc says only that it failed, and for a name with several addresses not even that.
        check_bindable(host, port)
    try:
        address = join_address(host, port)
        if certificates is None:
            return grpc_server.add_insecure_port(address)
        return grpc_server.add_secure_port(address, server_credentials(certificates))
    except RuntimeError as error:
        raise cannot_listen(host, port, str(error)) from error
