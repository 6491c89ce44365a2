"""Calls over real connections: messages, endings, strangers, silence."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton.v1 import events_pb2, session_pb2, stream_pb2, transfer_pb2, worker_pb2
from baton.wire.streams import client, methods, server, stream
from baton.wire.streams.client import ask, dial
from baton.wire.streams.framing import PREFACE, Deframer, Kind, frame
from baton.wire.streams.methods import DRAIN, HANDOFF, UNDRAIN, Method
from baton.wire.streams.server import StreamServer
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import Stream
from fakes.stream_ends import TOKEN, Callee, opening, request, response, serving


async def ends(caller: Stream[Any, Any]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        async for _ in caller:
            """What comes before is of no matter."""
    return caught.value


@pytest.mark.parametrize("method", [m for m in vars(methods).values() if isinstance(m, Method)])
def test_methods_are_those_of_proto(method: Method[Any, Any]) -> None:
    files = [f.DESCRIPTOR for f in (events_pb2, session_pb2, transfer_pb2, worker_pb2)]
    known = {
        f"{service.full_name}/{found.name}": (found.input_type, found.output_type)
        for file in files
        for service in file.services_by_name.values()
        for found in service.methods
    }
    assert known[method.name] == (method.request.DESCRIPTOR, method.response.DESCRIPTOR)  # type: ignore[attr-defined]


async def test_messages_go_both_ways_in_order_until_the_caller_has_said_all() -> None:
    async with serving() as it, dial(it.address, TOKEN, HANDOFF) as caller:
        for number in range(500):
            caller.send(request(number))
        caller.done_writing()
        assert [r.message.attempt async for r in caller] == list(range(500))
        assert await caller.read() is None, "and stays so"


async def test_a_message_larger_than_any_buffer_arrives() -> None:
    big = transfer_pb2.HandoffMessage(handoff_id=bytes(range(256)) * (1 << 15))
    async with serving() as it, dial(it.address, TOKEN, HANDOFF) as caller:
        caller.send(transfer_pb2.HandoffRequest(message=big))
        answer = await caller.read()
        assert answer is not None and answer.message == big


async def test_one_message_each_way() -> None:
    def drain(asked: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        if asked.reason == "no":
            raise StreamError(Code.FAILED_PRECONDITION, "it is leaving")
        return worker_pb2.DrainResponse(num_running=asked.within_ms)

    async with serving() as it:
        it.add_single(DRAIN, drain)
        answer = await ask(it.address, TOKEN, DRAIN, worker_pb2.DrainRequest(within_ms=7), 30)
        assert answer.num_running == 7
        with pytest.raises(StreamError, match="it is leaving") as caught:
            await ask(it.address, TOKEN, DRAIN, worker_pb2.DrainRequest(reason="no"), 30)
        assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_call_that_is_not_answered_in_time() -> None:
    async def sleep(callee: Callee) -> None:
        await asyncio.sleep(3600)

    async with serving(sleep) as it:
        with pytest.raises(StreamError) as caught:
            await ask(it.address, TOKEN, HANDOFF, request(), 0.05)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_how_a_handler_ends_comes_after_what_it_sent() -> None:
    async def refuse(callee: Callee) -> None:
        for number in range(3):
            callee.send(response(number))
        raise StreamError(Code.ABORTED, "enough")

    async with serving(refuse) as it, dial(it.address, TOKEN, HANDOFF) as caller:
        # More than the callee has read: it must not cost the caller the end.
        for _ in range(1000):
            caller.send(request())
        came = []
        with pytest.raises(StreamError, match="enough") as caught:
            async for message in caller:
                came.append(message.message.attempt)
        assert (came, caught.value.code) == ([0, 1, 2], Code.ABORTED)


async def test_a_handler_that_fails_says_so_and_the_next_call_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(callee: Callee) -> None:
        raise ZeroDivisionError("this is a bug")

    async with serving(fail) as it:
        for _ in range(2):
            async with dial(it.address, TOKEN, HANDOFF) as caller:
                assert (await ends(caller)).code is Code.INTERNAL
    assert "this is a bug" in caplog.text


@pytest.mark.parametrize("token", ["", "another"])
async def test_a_stranger_is_refused_and_learns_which_setting_is_missing(token: str) -> None:
    async with serving() as it, dial(it.address, token, HANDOFF) as caller:
        caller.send(request())
        refused = await ends(caller)
    assert refused.code is Code.UNAUTHENTICATED
    assert "--token-file" in refused.details


async def test_a_stranger_cannot_tell_which_methods_exist() -> None:
    async with serving() as it:
        async with dial(it.address, "another", UNDRAIN) as caller:
            assert (await ends(caller)).code is Code.UNAUTHENTICATED
        async with dial(it.address, TOKEN, UNDRAIN) as caller:
            refused = await ends(caller)
    assert refused.code is Code.UNIMPLEMENTED
    assert UNDRAIN.name in refused.details


async def raw(it: StreamServer, data: bytes) -> bytes:
    """All that is answered to some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


def end_of(data: bytes) -> stream_pb2.StreamEnd:
    [(kind, content)] = Deframer().feed(data)
    assert kind == Kind.END
    return stream_pb2.StreamEnd.FromString(content)


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n", bytes(100)],
    ids=["http", "grpc", "zeros"],
)
async def test_who_speaks_something_else_is_told_where_to_go(head: bytes) -> None:
    async with serving() as it:
        answer = await raw(it, head)
    assert answer.startswith(b"HTTP/1.1 400") and b"gateway" in answer


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PREFACE + frame(Kind.MESSAGE, b""), Code.INVALID_ARGUMENT),
        (PREFACE + frame(Kind.OPEN, b"\xff\xff"), Code.INVALID_ARGUMENT),
        (PREFACE + frame(Kind.OPEN, bytes(100_000)), Code.INVALID_ARGUMENT),
        (opening() + frame(Kind.MESSAGE, b"\xff\xff"), Code.INVALID_ARGUMENT),
        (opening() + b"\xff\xff\xff\xff\x00", Code.INVALID_ARGUMENT),
    ],
    ids=["no_opening", "bad_opening", "long_opening", "bad_message", "bad_length"],
)
async def test_garbage_ends_that_call_only(data: bytes, code: Code) -> None:
    async with serving() as it:
        assert end_of(await raw(it, data)).code == code
        answer = await ask(it.address, TOKEN, HANDOFF, request(3), 30)
    assert answer.message.attempt == 3


async def test_an_opening_in_single_bytes_is_understood() -> None:
    async with serving() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        for byte in opening() + frame(Kind.MESSAGE, request(9).SerializeToString()):
            writer.write(bytes([byte]))
            await writer.drain()
        came = Deframer().feed(await reader.read(1000))
        assert came == [(Kind.MESSAGE, response(9).SerializeToString())]
        writer.close()


async def test_who_connects_and_says_nothing_is_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OPEN_WAIT_S", 0.02)
    async with serving() as it:
        # What came too late to be read resets the connection.
        with suppress(ConnectionResetError):
            assert await raw(it, PREFACE[:4]) == b""


async def test_kinds_of_later_versions_are_left_out() -> None:
    async with serving() as it:
        data = opening() + frame(200, b"what?") + frame(Kind.HALF_CLOSE)  # type: ignore[arg-type]
        assert end_of(await raw(it, data)).code == Code.OK


async def test_a_handler_is_cancelled_when_its_caller_is_gone() -> None:
    cancelled = asyncio.Event()

    async def wait(callee: Callee) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    async with serving(wait) as it:
        async with dial(it.address, TOKEN, HANDOFF) as caller:
            caller.send(request())
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await cancelled.wait()


async def test_a_server_that_stops_tells_its_callers() -> None:
    async with serving() as it:
        async with dial(it.address, TOKEN, HANDOFF) as caller:
            caller.send(request())
            await caller.read()
            stopping = asyncio.create_task(it.stop(0))
            assert (await ends(caller)).code is Code.UNAVAILABLE
            await stopping
        with pytest.raises(StreamError) as caught:
            await ask(it.address, TOKEN, HANDOFF, request(), 30)
    assert caught.value.refused


async def test_a_broken_connection_is_unavailable_not_refused() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.transport.abort()

    listener = await asyncio.start_server(cut, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with dial(f"127.0.0.1:{port}", TOKEN, HANDOFF) as caller:
        lost = await ends(caller)
        caller.send(request())
    listener.close()
    assert (lost.code, lost.refused) == (Code.UNAVAILABLE, False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_where_nothing_listens_the_connection_is_refused(host: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(StreamError) as caught:
            await ask(f"{host}:{port}", TOKEN, HANDOFF, request(), 30)
    assert caught.value.refused and caught.value.code is Code.UNAVAILABLE


async def test_a_host_that_does_not_answer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.05)
    # A queue of one that is full.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        with pytest.raises(StreamError) as caught:
            await ask(f"127.0.0.1:{full.getsockname()[1]}", TOKEN, HANDOFF, request(), 30)
    assert (caught.value.code, caught.value.refused) == (Code.UNAVAILABLE, False)


async def test_a_peer_without_signs_of_life_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = f"127.0.0.1:{frozen.getsockname()[1]}"
        async with asyncio.timeout(30), dial(address, TOKEN, HANDOFF) as caller:
            assert "no sign of life" in (await ends(caller)).details


async def test_a_peer_that_is_only_silent_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.02)
    async with serving() as it, dial(it.address, TOKEN, HANDOFF) as caller:
        await asyncio.sleep(0.3)
        caller.send(request(4))
        answer = await caller.read()
        assert answer is not None and answer.message.attempt == 4


async def test_who_does_not_read_makes_the_other_wait() -> None:
    sent = 0

    async def flood(callee: Callee) -> None:
        nonlocal sent
        message = transfer_pb2.HandoffMessage(handoff_id=bytes(100_000))
        while sent < 2000:
            await callee.writable()
            callee.send(transfer_pb2.HandoffResponse(message=message))
            sent += 1
        await callee.read()

    async with serving(flood) as it, dial(it.address, TOKEN, HANDOFF) as caller:
        last = -1
        while sent != last:
            last = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < 2000, "it waits"
        for _ in range(2000):
            assert await caller.read() is not None


async def test_a_taken_port_is_refused_by_name() -> None:
    async with serving() as it:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{it.port}.*in use"):
            StreamServer("127.0.0.1", it.port, TOKEN)


async def test_an_empty_token_is_no_token() -> None:
    with pytest.raises(ConfigError, match="token_file"):
        StreamServer("127.0.0.1", 0, "")
