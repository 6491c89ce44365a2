"""Streams between workers, on the asyncio thread: greet, pump messages, dial again.

A Link is one live stream, whoever dialled it. What happens to links is posted to `LinkEvents`,
which lives on the worker's loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from baton.core.errors import HandoffError
from baton.transfer.hello import Greeter, PeerHello
from baton.v1 import common_pb2, transfer_pb2
from baton.wire.streams.client import dial
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import Stream

log = logging.getLogger(__name__)

HELLO_WAIT_S = 5.0
# A stream that broke may take this long to come back before its peer counts as lost.
RECONNECT_S = 5.0
RETRY_S = 0.1
# With so many bytes waiting for a peer to read, its stream is ended. They are lost with it, as with
# any stream that breaks: machines repeat what matters when it is back.
MAX_UNSENT = 16 << 20

Message = transfer_pb2.HandoffMessage
DialledStream = Stream[transfer_pb2.HandoffRequest, transfer_pb2.HandoffResponse]
AcceptedStream = Stream[transfer_pb2.HandoffResponse, transfer_pb2.HandoffRequest]
Post = Callable[[Callable[[], None]], None]


class LinkEvents(Protocol):
    """Called through `post`, on the worker's loop thread."""

    def link_up(self, link: Link) -> None: ...

    def link_message(self, link: Link, message: Message) -> None: ...

    def link_down(self, link: Link, reason: str) -> None: ...

    def dial_failed(self, peer: common_pb2.WorkerRef, reason: str) -> None:
        """The peer refuses, or was not reached for RECONNECT_S."""


class Link:
    """One stream to a peer that has said Hello."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hello: PeerHello,
        stream: DialledStream | AcceptedStream,
        wrap: type[transfer_pb2.HandoffRequest | transfer_pb2.HandoffResponse],
    ) -> None:
        """`wrap`: what a message travels in on this stream."""
        self.hello = hello
        self._loop = loop
        # Links are made on the asyncio thread.
        self._thread = threading.get_ident()
        self._stream: Stream[Any, Any] = stream
        self._wrap = wrap

    def send(self, message: Message) -> None:
        """Send a message, and do not wait for it to leave. From any thread."""
        if threading.get_ident() == self._thread:
            self._send(message)
            return
        # The loop is closed when the worker is about to leave: nobody hears then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._send, message)

    def _send(self, message: Message) -> None:
        if self._stream.num_unsent <= MAX_UNSENT:
            self._stream.send(self._wrap(message=message))
        else:
            self._stream.fail(Code.UNAVAILABLE, "the peer reads too slowly")


class _GaveUpError(Exception):
    """Dialling again would not help."""


class Links:
    """Dials and serves. `dial` and `close` may be called from any thread."""

    def __init__(
        self,
        greeter: Greeter,
        token: str,
        loop: asyncio.AbstractEventLoop,
        post: Post,
        do: Post,
        events: LinkEvents,
    ) -> None:
        """`do` is `post` for what should not wait for a change of threads."""
        self._greeter = greeter
        self._token = token
        self._loop = loop
        self._post = post
        self._do = do
        self._events = events
        self._dials: set[asyncio.Task[None]] = set()

    def dial(self, peer: common_pb2.WorkerRef) -> None:
        """Keep a stream to this peer, until `dial_failed`."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._start_dial, peer)

    def close(self) -> None:
        """End the dialled streams; those that were accepted end with their server."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel_dials)

    def _start_dial(self, peer: common_pb2.WorkerRef) -> None:
        task = self._loop.create_task(self._keep(peer))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def _cancel_dials(self) -> None:
        for task in self._dials:
            task.cancel()

    # --- dialled ---

    async def _keep(self, peer: common_pb2.WorkerRef) -> None:
        """Hold a stream; when it breaks dial again, as long as that may help."""
        give_up_at = self._loop.time()
        while True:
            began = self._loop.time()
            try:
                greeted, reason = await self._run(peer)
            except _GaveUpError as refused:
                self._post_failed(peer, str(refused))
                return
            except Exception as error:
                # Nobody else would ever dial this peer again.
                log.exception("dial to %s failed", peer.worker_id)
                self._post_failed(peer, f"{type(error).__name__}: {error}")
                return
            now = self._loop.time()
            if greeted:
                give_up_at = now + RECONNECT_S
            if now >= give_up_at:
                self._post_failed(peer, reason)
                return
            await asyncio.sleep(max(0.0, RETRY_S - (now - began)))

    def _post_failed(self, peer: common_pb2.WorkerRef, reason: str) -> None:
        self._post(lambda: self._events.dial_failed(peer, reason))

    async def _run(self, peer: common_pb2.WorkerRef) -> tuple[bool, str]:
        """One stream from Hello to its end: (whether the peer greeted, why it ended)."""
        where = f"{peer.worker_id} at {peer.address}"
        try:
            async with dial(peer.address, self._token, HANDOFF) as stream:
                link = await self._hello(peer, stream)
                try:
                    await self._converse(link, stream)
                except StreamError as error:
                    return True, f"{where}: {error.details}"
                return True, f"{where} closed the stream"
        except TimeoutError:
            return False, f"{where} did not answer within {HELLO_WAIT_S:g} s"
        except StreamError as error:
            reason = f"{where}: {error.details}"
            if error.code is not Code.UNAVAILABLE or error.refused:
                raise _GaveUpError(reason) from error
            return False, reason

    async def _hello(self, peer: common_pb2.WorkerRef, stream: DialledStream) -> Link:
        async with asyncio.timeout(HELLO_WAIT_S):
            stream.send(transfer_pb2.HandoffRequest(message=self._greeter.message))
            first = await stream.read()
        if first is None:
            raise _GaveUpError(f"{peer.worker_id} at {peer.address} closed the stream")
        return self._greet(peer, first.message, stream)

    def _greet(self, peer: common_pb2.WorkerRef, message: Message, stream: DialledStream) -> Link:
        try:
            hello = self._greeter.check(message)
        except HandoffError as error:
            raise _GaveUpError(str(error)) from error
        if hello.worker_id != peer.worker_id:
            raise _GaveUpError(f"{hello.worker_id} answers at {peer.address}, not {peer.worker_id}")
        return Link(self._loop, hello, stream, transfer_pb2.HandoffRequest)

    # --- accepted ---

    async def serve(self, stream: AcceptedStream) -> None:
        """TransferService.Handoff."""
        try:
            async with asyncio.timeout(HELLO_WAIT_S):
                first = await stream.read()
            if first is None:
                raise StreamError(Code.INVALID_ARGUMENT, "no Hello came")
            hello = self._greeter.check(first.message)
        except TimeoutError:
            raise StreamError(Code.DEADLINE_EXCEEDED, "no Hello came") from None
        except HandoffError as error:
            raise StreamError(Code.FAILED_PRECONDITION, error.message) from error
        stream.send(transfer_pb2.HandoffResponse(message=self._greeter.message))
        link = Link(self._loop, hello, stream, transfer_pb2.HandoffResponse)
        await self._converse(link, stream)

    # --- both ---

    async def _converse(self, link: Link, stream: DialledStream | AcceptedStream) -> None:
        """Post what comes until the stream ends. Raises StreamError when it ends badly."""
        reason = f"{link.hello.worker_id} closed the stream"
        self._post(lambda: self._events.link_up(link))
        try:
            async for said in stream:
                self._do(partial(self._events.link_message, link, said.message))
        except StreamError as error:
            reason = error.details
            raise
        finally:
            self._post(lambda: self._events.link_down(link, reason))
