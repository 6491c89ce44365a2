"""Peers that do not play by the rules, and calls that end while somebody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from baton.v1 import transfer_pb2
from baton.wire.streams import server, stream
from baton.wire.streams.client import ask, dial
from baton.wire.streams.framing import Kind, frame
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import Stream
from fakes.stream_ends import TOKEN, Callee, opening, request, response, serving
from fakes.until import until


def connected(it: StreamServer) -> socket.socket:
    """Somebody who says nothing."""
    caller = socket.create_connection(("127.0.0.1", it.port))
    caller.setblocking(False)
    return caller


async def test_silent_strangers_are_bounded_and_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_ARRIVALS", 10)
    loop = asyncio.get_running_loop()
    async with serving() as it:
        with contextlib.ExitStack() as strangers:
            silent = [strangers.enter_context(connected(it)) for _ in range(50)]
            answer = await ask(it.address, TOKEN, HANDOFF, request(3), 30)
            assert answer.message.attempt == 3
            assert len(it.arrivals) <= 10
            # Who has been silent longest is put out.
            for stranger in silent[:-10]:
                assert await loop.sock_recv(stranger, 1) == b""
            # Caller and server are one process: the newest are there still.
            assert len(it.arrivals) >= 9


async def test_pings_of_a_peer_that_does_not_read_are_not_answered_for_ever() -> None:
    callees = []

    async def wait(callee: Callee) -> None:
        callees.append(callee)
        await asyncio.sleep(3600)

    async with serving(wait) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(opening())
        await until(lambda: bool(callees))
        [callee] = callees
        # Until what answers take is more than the system's buffers hold.
        for _ in range(120):
            writer.write(frame(Kind.PING) * 20_000)
            await writer.drain()
        assert callee.num_unsent < 1 << 20
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        while len(await reader.read(1 << 20)) == 1 << 20:
            """The answers that were given."""
        writer.close()


async def test_a_ping_is_answered_though_many_come_at_once() -> None:
    async with serving() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(opening() + frame(Kind.PING) * 1000)
        assert (await reader.read(5)) == frame(Kind.PONG)
        writer.close()


async def test_who_reads_a_call_that_is_broken_off_here_is_told() -> None:
    async with serving() as it, dial(it.address, TOKEN, HANDOFF) as caller:
        reading = asyncio.create_task(caller.read())
        await asyncio.sleep(0.01)
        caller.close()
        with pytest.raises(StreamError) as caught:
            async with asyncio.timeout(30):
                await reading
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(StreamError):
            await caller.read()


async def test_who_only_writes_to_a_call_that_is_over_can_be_cancelled() -> None:
    big = transfer_pb2.HandoffMessage(handoff_id=bytes(100_000))

    async def wait(callee: Callee) -> None:
        await asyncio.sleep(3600)

    async with serving(wait) as it, dial(it.address, TOKEN, HANDOFF) as caller:

        async def flood() -> None:
            # With an end of its own: else a failure would have none.
            for _ in range(20_000):
                await caller.writable()
                caller.send(transfer_pb2.HandoffRequest(message=big))

        flooding = asyncio.create_task(flood())
        await until(lambda: caller.num_unsent > 0)
        caller.close()
        await asyncio.sleep(0.01)
        flooding.cancel()
        await asyncio.wait([flooding])
        assert flooding.cancelled()


async def test_a_reader_with_much_to_read_lets_others_have_their_turn() -> None:
    async def pour(callee: Callee) -> None:
        for number in range(200):
            callee.send(response(number))
        await callee.read()

    async with serving(pour) as it, dial(it.address, TOKEN, HANDOFF) as caller:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        assert await caller.read() is not None
        await asyncio.sleep(0.1)
        task = asyncio.create_task(others())
        for number in range(1, 200):
            message = await caller.read()
            assert message is not None and message.message.attempt == number
            time.sleep(0.001)  # noqa: ASYNC251 (work that takes as long)
        task.cancel()
        assert turns >= 10


async def test_messages_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_WAITING_BYTES", 1 << 20)
    callees = []

    async def wait(callee: Callee) -> None:
        callees.append(callee)
        await go_on.wait()
        async for message in callee:
            callee.send(transfer_pb2.HandoffResponse(message=message.message))

    go_on = asyncio.Event()
    big = transfer_pb2.HandoffMessage(handoff_id=bytes(1 << 20))
    async with serving(wait) as it, dial(it.address, TOKEN, HANDOFF) as caller:
        for _ in range(100):
            caller.send(transfer_pb2.HandoffRequest(message=big))
        last = -1
        while caller.num_unsent != last:
            last = caller.num_unsent
            await asyncio.sleep(0.2)
        assert last > 50 << 20, "the rest waits at its sender"
        go_on.set()
        for _ in range(100):
            answer = await caller.read()
            assert answer is not None and answer.message == big


async def test_a_peer_that_takes_what_is_sent_slowly_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It hears of the question whether it lives only after all that was sent before."""
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.2)
    done = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = 6 << 20
        while left > 0:
            left -= len(await reader.read(1 << 16))
            await asyncio.sleep(0.01)
        writer.write(frame(Kind.MESSAGE, response(5).SerializeToString()))
        await done.wait()
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connected = stream.Stream.connection_made

    def with_little_room(self: Stream[Any, Any], transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        connected(self, transport)

    monkeypatch.setattr(Stream, "connection_made", with_little_room)
    async with await asyncio.start_server(slow, sock=listener, limit=1 << 16):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with dial(address, TOKEN, HANDOFF) as caller:
            big = transfer_pb2.HandoffMessage(handoff_id=bytes(6 << 20))
            caller.send(transfer_pb2.HandoffRequest(message=big))
            answer = await caller.read()
            assert answer is not None and answer.message.attempt == 5
        done.set()


async def test_a_peer_that_takes_nothing_any_more_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = f"127.0.0.1:{frozen.getsockname()[1]}"
        async with asyncio.timeout(30), dial(address, TOKEN, HANDOFF) as caller:
            big = transfer_pb2.HandoffMessage(handoff_id=bytes(32 << 20))
            caller.send(transfer_pb2.HandoffRequest(message=big))
            with pytest.raises(StreamError, match="no sign of life"):
                await caller.read()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("no-such-host.invalid:5", "not known|resolution|No address"),
        ("a" * 70 + ".example:5", "label"),
        ("nowhere", "HOST:PORT"),
    ],
    ids=["unknown", "too_long", "no_port"],
)
async def test_an_address_that_means_nothing_is_unavailable(address: str, reason: str) -> None:
    with pytest.raises(StreamError, match=reason) as caught:
        await ask(address, TOKEN, HANDOFF, request(), 30)
    assert (caught.value.code, caught.value.refused) == (Code.UNAVAILABLE, False)


async def test_a_call_that_is_given_up_while_it_comes_up_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it is cancelled: no timer of its own goes off later."""
    monkeypatch.setattr(stream, "KEEPALIVE_S", 0.05)
    loop = asyncio.get_running_loop()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    async with serving() as it:
        for turns in range(60):
            asking = asyncio.create_task(ask(it.address, TOKEN, HANDOFF, request(), 30))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await asyncio.sleep(0.2)
    assert not failures
