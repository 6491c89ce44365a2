"""Messages that wait for a stream: who leaves when, and what becomes of the rest when it breaks."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.transfer.outbox import Outbox


class Stream:
    """Writes take until they are let through."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.written: list[int] = []
        self.gates: list[asyncio.Future[None]] = []
        self.outbox: Outbox[int] = Outbox(asyncio.get_running_loop())

    async def write(self, message: int) -> None:
        self.begun.append(message)
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        # As gRPC does between a message's parts.
        await asyncio.sleep(0)
        self.written.append(message)

    async def let_through(self) -> None:
        self.gates[-1].set_result(None)
        for _ in range(4):
            await asyncio.sleep(0)


async def test_first_message_leaves_before_put_returns() -> None:
    stream = Stream()
    stream.outbox.open(stream.write)
    stream.outbox.put(1)
    assert stream.begun == [1]


async def test_messages_from_before_the_stream_leave_when_it_opens() -> None:
    stream = Stream()
    stream.outbox.put(1)
    stream.outbox.put(2)
    assert len(stream.outbox) == 2 and not stream.begun
    stream.outbox.open(stream.write)
    assert stream.begun == [1]


async def test_one_write_at_a_time_in_order() -> None:
    stream = Stream()
    stream.outbox.open(stream.write)
    for message in (1, 2, 3):
        stream.outbox.put(message)
    assert stream.begun == [1] and len(stream.outbox) == 2
    await stream.let_through()
    assert stream.written == [1] and stream.begun == [1, 2]
    await stream.let_through()
    await stream.let_through()
    assert stream.written == [1, 2, 3]


async def test_write_that_fails_ends_it() -> None:
    stream = Stream()
    stream.outbox.open(stream.write)
    stream.outbox.put(1)
    stream.outbox.put(2)
    stream.gates[-1].set_exception(ConnectionError("the stream broke"))
    for _ in range(4):
        await asyncio.sleep(0)
    stream.outbox.put(3)
    assert stream.begun == [1] and not stream.written


async def test_closing_leaves_the_write_where_it_is() -> None:
    stream = Stream()
    stream.outbox.open(stream.write)
    stream.outbox.put(1)
    stream.outbox.put(2)
    stream.outbox.close()
    stream.outbox.close()
    await stream.let_through()
    assert stream.begun == [1] and not stream.written


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_every_message_is_written_once_and_in_order(steps: list[bool]) -> None:
    async def run() -> None:
        stream = Stream()
        stream.outbox.open(stream.write)
        count = 0
        for is_put in steps:
            if is_put:
                stream.outbox.put(count)
                count += 1
            elif stream.gates and not stream.gates[-1].done():
                await stream.let_through()
        while len(stream.written) < count:
            await stream.let_through()
        assert stream.written == stream.begun == list(range(count))

    asyncio.run(run())
