"""Streams between workers, on the asyncio thread: greet, pump messages, dial again.

A Link is one live stream, whoever dialled it. What happens to links is posted to `LinkEvents`,
which lives on the worker's loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

import grpc

from baton.core.errors import HandoffError
from baton.telemetry import rpc
from baton.transfer.hello import Greeter, PeerHello
from baton.transfer.outbox import Outbox
from baton.v1 import common_pb2, transfer_pb2, transfer_pb2_grpc

log = logging.getLogger(__name__)

HELLO_WAIT_S = 5.0
# A stream that broke may take this long to come back before its peer counts as lost.
RECONNECT_S = 5.0
RETRY_S = 0.1
# With so many messages waiting for a peer to read, its stream is ended. They are lost with it, as
# with any stream that breaks: machines repeat what matters when it is back.
MAX_QUEUED = 4096

_TOO_SLOW = "the peer reads too slowly"

Message = transfer_pb2.HandoffMessage
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

    def __init__(self, loop: asyncio.AbstractEventLoop, hello: PeerHello) -> None:
        self.hello = hello
        self._loop = loop
        # Links are made on the asyncio thread.
        self._thread = threading.get_ident()
        self.outbox: Outbox[Message] = Outbox(loop)
        self.reading = asyncio.timeout(None)
        """Around what reads the stream: ends it, by a TimeoutError, when the peer does not read."""

    def send(self, message: Message) -> None:
        """Queue a message. From any thread."""
        if threading.get_ident() == self._thread:
            self._put(message)
            return
        try:
            self._loop.call_soon_threadsafe(self._put, message)
        except RuntimeError:
            # The loop is closed when the worker is about to leave: nobody hears then.
            return

    def _put(self, message: Message) -> None:
        if len(self.outbox) < MAX_QUEUED:
            self.outbox.put(message)
        elif self.reading.when() is None:
            # It may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                self.reading.reschedule(self._loop.time())


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
        async with rpc.channel(peer.address, self._token) as channel:
            stub = transfer_pb2_grpc.TransferServiceStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Handoff()
            try:
                link = await self._hello(peer, call)
                return True, f"{where}: {await self._converse(link, call)}"
            except TimeoutError:
                return False, f"{where} did not answer within {HELLO_WAIT_S:g} s"
            except StopAsyncIteration:
                raise _GaveUpError(f"{where} closed the stream") from None
            except grpc.aio.AioRpcError as error:
                reason = f"{where}: {error.details()}"
                if error.code() is not grpc.StatusCode.UNAVAILABLE or "refused" in reason.lower():
                    raise _GaveUpError(reason) from error
                return False, reason
            finally:
                call.cancel()

    async def _hello(self, peer: common_pb2.WorkerRef, call: Any) -> Link:
        async with asyncio.timeout(HELLO_WAIT_S):
            # A write to a stream that could not be opened says less than the read after it.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(transfer_pb2.HandoffRequest(message=self._greeter.message))
            first = await anext(aiter(call))
        return self._greet(peer, first.message)

    async def _converse(self, link: Link, call: Any) -> str:
        """Pump messages both ways until the stream ends; why it did."""

        async def write(message: Message) -> None:
            await call.write(transfer_pb2.HandoffRequest(message=message))

        reason = "the peer closed the stream"
        link.outbox.open(write)
        self._post(lambda: self._events.link_up(link))
        try:
            async with link.reading:
                async for response in call:
                    self._post_message(link, response.message)
        except TimeoutError:
            reason = _TOO_SLOW
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
        finally:
            link.outbox.close()
            self._post(lambda: self._events.link_down(link, reason))
        return reason

    def _greet(self, peer: common_pb2.WorkerRef, message: Message) -> Link:
        try:
            hello = self._greeter.check(message)
        except HandoffError as error:
            raise _GaveUpError(str(error)) from error
        if hello.worker_id != peer.worker_id:
            raise _GaveUpError(f"{hello.worker_id} answers at {peer.address}, not {peer.worker_id}")
        return Link(self._loop, hello)

    def _post_message(self, link: Link, message: Message) -> None:
        self._do(partial(self._events.link_message, link, message))

    # --- accepted ---

    async def serve(
        self, request_iterator: AsyncIterator[transfer_pb2.HandoffRequest], context: Any
    ) -> None:
        """TransferService.Handoff. The interceptor has checked the caller's token."""
        requests = aiter(request_iterator)
        try:
            async with asyncio.timeout(HELLO_WAIT_S):
                first = await anext(requests)
            link = Link(self._loop, self._greeter.check(first.message))
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came")
        except HandoffError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)

        async def write(message: Message) -> None:
            await context.write(transfer_pb2.HandoffResponse(message=message))

        await write(self._greeter.message)
        link.outbox.open(write)
        self._post(lambda: self._events.link_up(link))
        reason = f"{link.hello.worker_id} closed the stream"
        try:
            async with link.reading:
                async for request in requests:
                    self._post_message(link, request.message)
        except TimeoutError:
            reason = _TOO_SLOW
        finally:
            # Nothing is awaited here: gRPC may cancel a handler whose caller is gone at any await,
            # and link_down must be said.
            link.outbox.close()
            self._post(lambda: self._events.link_down(link, reason))
