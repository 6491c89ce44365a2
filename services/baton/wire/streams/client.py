"""The caller's end."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from baton.telemetry.addresses import split_address
from baton.telemetry.deployment_tls import deployment_tls
from baton.v1 import stream_pb2
from baton.wire.streams.framing import PREFACE, Kind, frame
from baton.wire.streams.methods import Method
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import In, Out, Stream

# For a connection to come up, TLS included.
CONNECT_S = 5.0


@asynccontextmanager
async def dial(address: str, token: str, method: Method[Out, In]) -> AsyncIterator[Stream[Out, In]]:
    """A call of `method` at HOST:PORT, broken off at the end if it is not over by then.

    Raises StreamError when nobody can be reached there; what the callee says of the call, a refused
    token included, comes by reading.
    """
    stream = Stream[Out, In](method.name, method.response)
    opening = stream_pb2.StreamOpen(method=method.name, token=token)
    try:
        transport = await _connect(address, stream)
        transport.write(PREFACE + frame(Kind.OPEN, opening.SerializeToString()))
        yield stream
    finally:
        stream.close()


async def ask(
    address: str, token: str, method: Method[Out, In], request: Out, timeout_s: float
) -> In:
    """A call of one message each way. Raises StreamError."""
    try:
        async with asyncio.timeout(timeout_s), dial(address, token, method) as stream:
            stream.send(request)
            stream.done_writing()
            answer = await stream.read()
    except TimeoutError:
        raise StreamError(
            Code.DEADLINE_EXCEEDED, f"{address} did not answer within {timeout_s:g} s"
        ) from None
    if answer is None:
        raise StreamError(Code.INTERNAL, f"{address} ended the call without an answer")
    return answer


async def _connect(address: str, stream: Stream[Out, In]) -> asyncio.Transport:
    tls = deployment_tls()
    try:
        host, port = split_address(address)
        async with asyncio.timeout(CONNECT_S):
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: stream,
                host,
                port,
                ssl=tls.certificates.latest().client if tls else None,
                server_hostname=tls.server_name if tls else None,
            )
            return transport
    except TimeoutError:
        raise StreamError(
            Code.UNAVAILABLE, f"{address}: no connection within {CONNECT_S:g} s"
        ) from None
    except ssl.SSLError as error:
        raise StreamError(Code.UNAVAILABLE, f"{address}: TLS failed: {error}") from error
    except socket.gaierror as error:
        raise StreamError(Code.UNAVAILABLE, f"{address}: {error.strerror or error}") from error
    except OSError as error:
        reason = f"{address}: {os.strerror(error.errno) if error.errno else error}"
        raise StreamError(Code.UNAVAILABLE, reason, refused=_is_refusal(error)) from error
    except (ValueError, OverflowError) as error:
        # No port, or a name that none can be.
        reason = f"{address!r} is no address HOST:PORT: {error}"
        raise StreamError(Code.UNAVAILABLE, reason) from error


def _is_refusal(error: OSError) -> bool:
    """Nothing listens there. For a name with several addresses: at any of them."""
    numbers = re.findall(r"\[Errno (\d+)\]", str(error)) or [error.errno]
    return all(int(number or 0) == errno.ECONNREFUSED for number in numbers)
