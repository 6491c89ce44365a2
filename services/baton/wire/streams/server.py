"""The callee's end: a port where methods are called."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.message import DecodeError

from baton.core.errors import ConfigError
from baton.core.token import EMPTY_TOKEN, NAME_THE_FILE
from baton.telemetry.addresses import check_bindable, join_address, listening_socket
from baton.telemetry.deployment_tls import deployment_tls
from baton.v1 import stream_pb2
from baton.wire.streams.framing import PREFACE, FramingError, Kind, first_frame
from baton.wire.streams.methods import Method
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import LINGER_S, In, Out, Stream, end_frame

log = logging.getLogger(__name__)

# For a caller to say which method it calls, and that it may.
OPEN_WAIT_S = 5.0
# Long enough for a token and a method's name.
_MAX_OPENING = 65_536
_BACKLOG = 512
# Connections that have not said yet what they are for. Callers say it at once; beyond so many, half
# of the descriptors that a process commonly has, the one that has been silent longest has to go.
MAX_ARRIVALS = 512

_STRANGER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"This is the inner port of a Baton worker. Clients talk to the gateway.\n"
)

Handler = Callable[[Stream[Any, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Service:
    method: Method[Any, Any]
    handler: Handler


class StreamServer:
    """Listens when it is made, and lets callers wait; answers from `start` to `stop`."""

    def __init__(self, host: str, port: int, token: str) -> None:
        """`port` 0 takes any free one. Raises ConfigError when it cannot be had."""
        if not token:
            raise ConfigError(EMPTY_TOKEN)
        self._token = token.encode()
        # All addresses of a name; we listen at the first that can be had.
        check_bindable(host, port)
        self._socket = listening_socket(host, port, _BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self.address = join_address(host, self.port)
        self._services: dict[str, _Service] = {}
        self._server: asyncio.Server | None = None
        self._calls: set[_Call] = set()
        # By age.
        self.arrivals: dict[_Arrival, None] = {}
        self._is_stopped = False

    def add(
        self, method: Method[Out, In], handler: Callable[[Stream[In, Out]], Awaitable[None]]
    ) -> None:
        """Have calls of a method answered.

        When `handler` returns, the call has ended well; when it raises StreamError, so. It is
        cancelled when the caller is gone.
        """
        self._services[method.name] = _Service(method, cast(Handler, handler))

    def add_single(self, method: Method[Out, In], answer: Callable[[Out], In]) -> None:
        """Have calls of a method with one message each way answered. It may raise StreamError."""

        async def handler(stream: Stream[In, Out]) -> None:
            request = await stream.read()
            if request is None:
                raise StreamError(Code.INVALID_ARGUMENT, f"{method.name}: no message came")
            stream.send(answer(request))

        self.add(method, handler)

    async def start(self) -> None:
        """Accept calls."""
        tls = deployment_tls()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Arrival(self),
            sock=self._socket,
            ssl=tls.certificates.server_context() if tls else None,
            backlog=_BACKLOG,
            ssl_handshake_timeout=OPEN_WAIT_S if tls else None,
        )

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, give open ones `grace_s` to end, end the others. Idempotent."""
        self._is_stopped = True
        if self._server is None:
            self._socket.close()
        else:
            self._server.close()
        for arrival in list(self.arrivals):
            arrival.close()
        await self._wait_gone(grace_s)
        for call in self._calls:
            call.task.cancel()
        # Callers close when they are told of the end.
        await self._wait_gone(LINGER_S)
        for call in self._calls:
            call.stream.close()

    async def _wait_gone(self, within_s: float) -> None:
        """Until there are no calls."""
        if self._calls:
            await asyncio.wait([call.gone for call in self._calls], timeout=within_s)

    # --- for connections that arrive ---

    def take(self, arrival: _Arrival) -> None:
        """A connection is there. It may have been under way when the server stopped."""
        self.arrivals[arrival] = None
        if self._is_stopped:
            arrival.close()
        elif len(self.arrivals) > MAX_ARRIVALS:
            oldest = next(iter(self.arrivals))
            self.leave(oldest)
            oldest.close()

    def leave(self, arrival: _Arrival) -> None:
        """A connection has said what it is for, or is gone. Idempotent."""
        self.arrivals.pop(arrival, None)

    def find(self, opening: stream_pb2.StreamOpen) -> _Service:
        """What is called. Raises StreamError for who may not, and for what there is not."""
        if not opening.token:
            raise StreamError(Code.UNAUTHENTICATED, f"the call carries no token: {NAME_THE_FILE}")
        if not hmac.compare_digest(opening.token.encode(), self._token):
            raise StreamError(
                Code.UNAUTHENTICATED, f"the call's token is not this deployment's: {NAME_THE_FILE}"
            )
        service = self._services.get(opening.method)
        if service is None:
            raise StreamError(Code.UNIMPLEMENTED, f"no method {opening.method!r} here")
        return service

    def begin(self, service: _Service, transport: asyncio.Transport, rest: bytes) -> None:
        """A call has arrived that may be answered; `rest` of it came with its opening."""
        call = _Call(service)
        self._calls.add(call)
        call.gone.add_done_callback(lambda _: self._calls.discard(call))
        call.begin(transport, rest)


class _Call:
    """A call that may be answered."""

    def __init__(self, service: _Service) -> None:
        method, loop = service.method, asyncio.get_running_loop()
        self._service = service
        self.stream: Stream[Any, Any] = Stream(method.name, method.request, self._lost)
        # When the connection is no more.
        self.gone: asyncio.Future[None] = loop.create_future()

    def begin(self, transport: asyncio.Transport, rest: bytes) -> None:
        self.task = asyncio.get_running_loop().create_task(
            self._answer(), name=self._service.method.name
        )
        transport.set_protocol(self.stream)
        self.stream.connection_made(transport)
        if rest:
            self.stream.data_received(rest)

    def _lost(self) -> None:
        self.task.cancel()
        if not self.gone.done():
            self.gone.set_result(None)

    async def _answer(self) -> None:
        stream, name = self.stream, self._service.method.name
        try:
            await self._service.handler(stream)
        except StreamError as error:
            stream.end(error.code, error.details)
        except asyncio.CancelledError:
            stream.end(Code.UNAVAILABLE, "the worker stops")
            raise
        except Exception as error:
            log.exception("a call of %s failed", name)
            stream.end(Code.INTERNAL, f"{name}: {type(error).__name__}; the worker's log says more")
        else:
            stream.end()


class _Arrival(asyncio.Protocol):
    """A connection that has not said yet what it is for."""

    def __init__(self, server: StreamServer) -> None:
        self._server = server
        self._head = b""
        # Turned away: what else comes is of no matter.
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(OPEN_WAIT_S, self.close)
        self._server.take(self)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self._transport.is_closing():
            return
        self._head += data
        begin = self._head[: len(PREFACE)]
        if not PREFACE.startswith(begin):
            self._refuse(_STRANGER)
            return
        try:
            first = first_frame(self._head[len(PREFACE) :], _MAX_OPENING)
            if first is None:
                return
            kind, content, rest = first
            service = self._server.find(_opening(kind, content))
        except FramingError as error:
            self._refuse(end_frame(Code.INVALID_ARGUMENT, str(error)))
        except StreamError as error:
            self._refuse(end_frame(error.code, error.details))
        else:
            self._leave()
            self._server.begin(service, self._transport, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._leave()

    def close(self) -> None:
        """Break it off."""
        self._transport.abort()

    def _refuse(self, answer: bytes) -> None:
        """Answer, and have it arrive: unread bytes would make the system throw it away."""
        self._is_refused = True
        self._transport.write(answer)
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.close)

    def _leave(self) -> None:
        self._timer.cancel()
        self._server.leave(self)


def _opening(kind: int, content: bytes) -> stream_pb2.StreamOpen:
    """Raises StreamError."""
    try:
        if kind == Kind.OPEN:
            return stream_pb2.StreamOpen.FromString(content)
    except DecodeError:
        pass
    raise StreamError(Code.INVALID_ARGUMENT, "a call begins with a frame OPEN")
