"""One end of a call: messages both ways, flow control, signs of life."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from baton.v1 import stream_pb2
from baton.wire.streams.framing import Deframer, FramingError, Kind, frame
from baton.wire.streams.status import Code, StreamError

Out = TypeVar("Out", bound=Message)
In = TypeVar("In", bound=Message)
_Message = TypeVar("_Message", covariant=True)

# A peer of whom nothing was heard for so long is asked for a sign of life, and has as long again.
KEEPALIVE_S = 5.0
# A check that comes so late says that this process stood still; it may not have read what came.
_LATE_S = 1.0
# Received messages that may wait to be read before the connection is not read any more.
_MAX_WAITING = 1024
# The same in bytes: messages are of very different sizes.
MAX_WAITING_BYTES = 16 << 20
# A reader that does not have to wait gives others their turn after so long.
_TURN_S = 0.005
# For what was written last to arrive, and for the peer to close first.
LINGER_S = 1.0


class MessageType(Protocol[_Message]):
    """A class that protoc made."""

    def FromString(self, data: bytes, /) -> _Message: ...


def end_frame(code: Code, details: str) -> bytes:
    """What a callee says last."""
    end = stream_pb2.StreamEnd(code=code, details=details)
    return frame(Kind.END, end.SerializeToString())


class Stream(asyncio.Protocol, Generic[Out, In]):
    """Lives on one event loop. Whoever reads is told how it ended; one reader at a time."""

    def __init__(
        self,
        method: str,
        incoming: MessageType[In],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`lost` is called once, when the connection is no more, whoever closed it."""
        self._method = method
        self._parse = incoming.FromString
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._is_connected = False
        self._deframer = Deframer()
        self._received: deque[bytes] = deque()
        self._num_waiting_bytes = 0
        # When the loop last had others do something while we read.
        self._turn_began = 0.0
        # The peer has said all it had to say; or, how the call failed.
        self._finished = False
        self._error: StreamError | None = None
        # The call is over on our side: nothing more is taken or sent.
        self._over = False
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._reading = True
        self._heard = False
        self._pinged = False
        self._check_due = 0.0
        # Bytes ever written; and as of the last check, how many the system had not taken, or had.
        self._num_written = 0
        self._was_unsent = 0
        self._was_taken = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- messages ---

    def send(self, message: Out) -> None:
        """Send without waiting. A call that is over swallows it: its reader is told why."""
        self._put(Kind.MESSAGE, message.SerializeToString())

    async def writable(self) -> None:
        """Wait until the connection takes more; until then what is sent piles up here."""
        if self._over:
            # Whoever only writes would never hear that it is cancelled.
            await asyncio.sleep(0)
        await self._writable.wait()

    @property
    def num_unsent(self) -> int:
        """Bytes that wait here for the connection to take them."""
        return 0 if self._over else self._transport.get_write_buffer_size()

    async def read(self) -> In | None:
        """The next message; None when the peer has said all. Raises StreamError otherwise."""
        while not self._received:
            if self._error is not None:
                raise self._error
            if self._finished:
                return None
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
            self._turn_began = self._loop.time()
        if self._loop.time() - self._turn_began > _TURN_S:
            await asyncio.sleep(0)
            self._turn_began = self._loop.time()
        content = self._received.popleft()
        self._num_waiting_bytes -= len(content)
        if not self._reading and not self._received and not self._over:
            self._reading = self._heard = True
            self._transport.resume_reading()
        try:
            return self._parse(content)
        except DecodeError:
            self._error = StreamError(
                Code.INVALID_ARGUMENT, f"{self._method}: a message that came cannot be parsed"
            )
            self._received.clear()
            self._num_waiting_bytes = 0
            raise self._error from None

    async def __aiter__(self) -> AsyncIterator[In]:
        while (message := await self.read()) is not None:
            yield message

    # --- endings ---

    def done_writing(self) -> None:
        """The caller has no more messages; it still reads."""
        self._put(Kind.HALF_CLOSE)

    def end(self, code: Code = Code.OK, details: str = "") -> None:
        """The callee says how the call ended; what was sent before arrives before it."""
        if self._over:
            return
        self._transport.write(end_frame(code, details))
        self._close_later()

    def fail(self, code: Code, details: str) -> None:
        """Break the call off here; our reader hears this."""
        if self._error is None:
            self._error = StreamError(code, details)
        self._wake_reader()
        self.close()

    def close(self) -> None:
        """Break the call off, or have it not begin. Idempotent."""
        self._stop()
        # Of a connection that is given up while it comes up, uvloop does not say that it is lost.
        if self._is_connected:
            self._transport.abort()

    def _close_later(self) -> None:
        """Let what is written leave. Reading goes on until the peer closes, as unread bytes would
        make the system throw away what is still on its way there."""
        self._stop()
        if not self._reading:
            self._transport.resume_reading()
        self._timer = self._loop.call_later(LINGER_S, self._transport.abort)

    def _stop(self) -> None:
        self._over = True
        self._writable.set()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, or by whoever has read how the connection began."""
        self._transport = cast(asyncio.Transport, transport)
        self._is_connected = True
        if not self._over:
            self._check_later()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._over or self._error is not None:
            return
        try:
            frames = self._deframer.feed(data)
        except FramingError as error:
            self._error = StreamError(Code.INVALID_ARGUMENT, f"{self._method}: {error}")
            self._wake_reader()
        else:
            self._take(frames)

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        is_asked = False
        for kind, content in frames:
            if kind == Kind.MESSAGE:
                self._received.append(content)
                self._num_waiting_bytes += len(content)
            elif kind == Kind.PING:
                is_asked = True
            elif kind == Kind.HALF_CLOSE:
                self._finished = True
            elif kind == Kind.END:
                self._take_end(content)
                break
            # A PONG has been heard already; kinds that come with later versions may be left out.
        self._wake_reader()
        # A peer that is behind with reading hears from us as soon as it does read.
        if is_asked and self._writable.is_set():
            self._put(Kind.PONG)
        is_much = len(self._received) > _MAX_WAITING or self._num_waiting_bytes > MAX_WAITING_BYTES
        if is_much and self._reading and not self._over:
            self._reading = False
            self._transport.pause_reading()

    def _take_end(self, content: bytes) -> None:
        try:
            end = stream_pb2.StreamEnd.FromString(content)
            code = Code(end.code)
        except (DecodeError, ValueError):
            self._error = StreamError(Code.INTERNAL, f"{self._method}: it ended in an unknown way")
        else:
            if code is Code.OK:
                self._finished = True
            else:
                self._error = StreamError(code, end.details)
        self.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None and not (self._over and self._finished):
            if self._over:
                reason = "the call was ended here"
            elif self._finished:
                # The caller has said all it had to say and did not wait for the end.
                reason = "the caller went away"
            else:
                reason = f"the connection was lost{f': {exc}' if exc and str(exc) else ''}"
            self._error = StreamError(Code.UNAVAILABLE, reason)
        self._stop()
        self._wake_reader()
        self._lost()

    # --- small parts ---

    def _put(self, kind: Kind, content: bytes = b"") -> None:
        if not self._over:
            data = frame(kind, content)
            self._num_written += len(data)
            self._transport.write(data)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _check_later(self) -> None:
        self._check_due = self._loop.time() + KEEPALIVE_S
        self._timer = self._loop.call_at(self._check_due, self._check)

    def _check(self) -> None:
        """Whether the peer gives signs of life."""
        stood_still = self._loop.time() - self._check_due > _LATE_S
        takes = self._takes()
        if self._heard or takes or not self._reading or stood_still:
            self._heard = self._pinged = False
        elif self._pinged:
            self.fail(Code.UNAVAILABLE, f"no sign of life for {2 * KEEPALIVE_S:g} s")
            return
        else:
            self._pinged = True
            self._put(Kind.PING)
        self._check_later()

    def _takes(self) -> bool:
        """Whether the peer has taken some of what waited here for it at the last check: it answers
        a PING when it has taken all that was written before."""
        unsent, was_unsent = self.num_unsent, self._was_unsent
        taken, was_taken = self._num_written - unsent, self._was_taken
        self._was_unsent, self._was_taken = unsent, taken
        return was_unsent > 0 and taken > was_taken
