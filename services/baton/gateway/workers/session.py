"""The gateway's end of the token plane: the stream that it holds with one worker.

The stream is what tells whether the worker lives. When it breaks, nothing more is placed there and
the session is resumed within a window; it is given up when that fails, and at once when the worker
refuses the connection or turns out to be another process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Literal, Protocol

from baton.core.clock import Clock
from baton.core.errors import BatonError, WorkerLostError
from baton.core.request import TokenLogprobs
from baton.gateway.workers.outbox import Outbox
from baton.telemetry.logging import event
from baton.v1 import common_pb2, session_pb2
from baton.wire.frames import frame_logprobs
from baton.wire.streams.client import ask, dial
from baton.wire.streams.methods import SESSION, Method
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import In, Out, Stream
from baton.wire.version import PROTOCOL_MAX

log = logging.getLogger(__name__)

WorkerStream = Stream[session_pb2.SessionRequest, session_pb2.SessionResponse]
# Pause between two tries to open a stream.
RETRY_S = 0.1
# Workers send a frame every second at least. One that has not for this long is frozen or cut off,
# whatever its connection says: a stopped process keeps its sockets.
SILENCE_S = 5.0
# By so much it may be taken for shorter, since moving a timer for every frame is not free.
SILENCE_STEP_S = 0.5
# Time for the last cancels to leave when the gateway stops.
CLOSE_S = 0.5

# A worker that answers so will not answer otherwise next time.
_FINAL = frozenset(
    {
        Code.FAILED_PRECONDITION,
        Code.INVALID_ARGUMENT,
        Code.UNAUTHENTICATED,
        Code.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a worker was given up: one of a few causes (for metrics), and a text for people."""

    cause: Literal["refused", "rejected", "silent", "restarted", "left", "error"]
    reason: str


class SlotListener(Protocol):
    """Hears what a worker says about one submission. Synchronous; must not raise."""

    # Choice to the position after the last row seen.
    received: dict[int, int]

    def on_row(
        self, choice: int, position: int, token: int, flags: int, logprobs: TokenLogprobs | None
    ) -> None:
        """A generated token."""

    def on_event(self, slot_event: session_pb2.SlotEvent) -> None:
        """Anything else."""

    def on_lost(self, error: BatonError) -> None:
        """Nothing more will come. The slot is closed already."""


class SessionOwner(Protocol):
    """Hears about the session itself."""

    def on_up(self, session: WorkerSession) -> None:
        """The stream is open, for the first time or again."""

    def on_down(self, session: WorkerSession, reason: str) -> None:
        """The stream is lost; the session tries to resume."""

    def on_gone(self, session: WorkerSession, loss: Loss) -> None:
        """The worker is given up. Its slots hear `on_lost` right after."""

    def on_load(self, session: WorkerSession, load: session_pb2.Load) -> None:
        """A load report."""


class WorkerSession:
    """Submits to one life of one worker. Lives on the gateway's event loop."""

    def __init__(
        self,
        worker: common_pb2.WorkerRef,
        token: str,
        owner: SessionOwner,
        window_s: float,
        clock: Clock,
    ) -> None:
        self.worker = worker
        self.is_up = False
        self._token = token
        self._owner = owner
        self._window_s = window_s
        self._clock = clock
        self._id = secrets.token_hex(16)
        self._next_slot = 1
        self._slots: dict[int, SlotListener] = {}
        # Slots whose Submit may have reached the worker.
        self._sent: set[int] = set()
        self._outbox = Outbox()
        self._closing = False
        self._is_gone = False
        self._task: asyncio.Task[None] | None = None

    @property
    def num_slots(self) -> int:
        return len(self._slots)

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name=f"session {self.worker.worker_id}")

    # --- what the dispatcher does ---

    def open_slot(self, listener: SlotListener) -> int:
        """A number for a submission, never used again on this session."""
        slot = self._next_slot
        self._next_slot += 1
        self._slots[slot] = listener
        return slot

    def submit(self, submit: session_pb2.Submit) -> None:
        """Send a copy of a submission for a slot that was opened for it."""
        self._outbox.submit(submit)

    def cancel(self, slot: int) -> None:
        """Stop a submission; its listener hears no more. Unknown slots are ignored."""
        if self._slots.pop(slot, None) is None or slot not in self._sent:
            return
        self._sent.discard(slot)
        self._outbox.cancel(slot)

    def migrate(self, migrate: session_pb2.Migrate) -> None:
        """Have a running submission handed over. A stream that breaks may swallow it."""
        self._outbox.migrate(migrate)

    def prefetch(self, prefetch: session_pb2.Prefetch) -> None:
        """Tell the worker of a prompt that is about to come. A broken stream may swallow it."""
        self._outbox.prefetch(prefetch)

    def forget(self, slot: int) -> None:
        """A submission has ended by itself; the worker may drop what it keeps of it."""
        if self._slots.pop(slot, None) is None:
            return
        self._sent.discard(slot)
        self._outbox.forget(slot)

    async def ask(self, method: Method[Out, In], request: Out, timeout_s: float) -> In:
        """Call another method of the worker. Raises StreamError."""
        return await ask(self.worker.address, self._token, method, request, timeout_s)

    def drop(self, loss: Loss) -> None:
        """Give the worker up at once."""
        if self._task is not None:
            self._task.cancel()
        self._give_up(loss)

    async def close(self) -> None:
        """The gateway stops: let what is queued leave, then end the stream. Tells nobody."""
        if self._task is None:
            return
        self._closing = True
        self._outbox.hurry()
        if self.is_up:
            await asyncio.wait([self._task], timeout=CLOSE_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- the stream ---

    async def _run(self) -> None:
        try:
            loss = await self._keep_open()
        except Exception as error:
            log.exception(*event("session_failed", worker=self.worker.worker_id))
            loss = Loss("error", f"internal error ({type(error).__name__})")
        if not self._closing:
            self._give_up(loss)

    async def _keep_open(self) -> Loss:
        """Keep a stream open; returns why the worker has to be given up."""
        reason = ""
        until = self._clock() + self._window_s
        while (left := until - self._clock()) > 0:
            tried_at = self._clock()
            try:
                async with (
                    asyncio.timeout(left) as opening,
                    dial(self.worker.address, self._token, SESSION) as stream,
                ):
                    opened = await self._open(stream)
                    opening.reschedule(None)
                    self._take_opened(opened)
                    reason = await self._follow(stream)
            except TimeoutError:
                break
            except StreamError as error:
                reason = error.details
                if error.code in _FINAL:
                    return Loss("rejected", reason)
                if error.refused:
                    return Loss("refused", reason)
            if self._closing:
                break
            if self.is_up:
                until = self._clock() + self._window_s
                self._set_down(reason)
            # The first try to resume comes at once.
            await asyncio.sleep(max(0.0, tried_at + RETRY_S - self._clock()))
        return Loss("silent", f"no answer for {self._window_s:g} s; {reason}".rstrip("; "))

    async def _open(self, stream: WorkerStream) -> session_pb2.Opened:
        """Say who this is and where each slot continues; the worker's answer."""
        opening = session_pb2.Open(
            session_id=self._id, worker_epoch=self.worker.epoch, protocol=PROTOCOL_MAX
        )
        for slot in sorted(self._sent):
            received = self._slots[slot].received or {0: 0}
            for choice, position in received.items():
                opening.resume.add(slot=slot, choice=choice, next_position=position)
        stream.send(session_pb2.SessionRequest(open=opening))
        response = await stream.read()
        if response is None:
            raise StreamError(Code.UNAVAILABLE, "the worker ended the stream")
        return response.opened

    def _take_opened(self, opened: session_pb2.Opened) -> None:
        self.is_up = True
        self._owner.on_up(self)
        if not opened.resumed:
            # What the worker was told on an earlier stream, it has dropped.
            lost = WorkerLostError("the worker no longer knows the session")
            for slot in sorted(self._sent):
                self._lose(slot, lost)

    async def _follow(self, stream: WorkerStream) -> str:
        """Take frames until the stream ends or falls silent, and say which of them.

        Raises StreamError when it breaks.
        """
        now = asyncio.get_running_loop().time
        writer = asyncio.create_task(self._write(stream))
        try:
            async with asyncio.timeout(SILENCE_S) as silence:
                moved_at = now()
                async for response in stream:
                    if now() - moved_at > SILENCE_STEP_S:
                        moved_at = now()
                        silence.reschedule(moved_at + SILENCE_S)
                    self.on_frame(response.frame)
            return "the stream ended"
        except TimeoutError:
            return f"no word for {SILENCE_S:g} s"
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, stream: WorkerStream) -> None:
        """Send what is queued, all of it at once."""
        try:
            while True:
                await stream.writable()
                message = self._outbox.take(self._slots)
                self._sent.update([submit.slot for submit in message.submits])
                if message.ByteSize():
                    stream.send(message)
                if self._closing:
                    stream.done_writing()
                    return
                await self._outbox.filled.wait()
        except Exception as error:
            # The reader would go on, and nothing ever be placed.
            log.exception(*event("session_failed", worker=self.worker.worker_id))
            stream.fail(Code.INTERNAL, f"nothing can be sent: {type(error).__name__}")

    def on_frame(self, frame: session_pb2.Frame) -> None:
        """Give a frame's rows, then its events, to the slots' listeners; what has been scheduled
        first, as rows of the same frame may end it.

        This is the hot path: a dictionary lookup and one call for each token.
        """
        slots = self._slots
        later: list[session_pb2.SlotEvent] = []
        for slot_event in frame.events:
            if slot_event.kind != session_pb2.SlotEvent.KIND_SCHEDULED:
                later.append(slot_event)
            elif (listener := slots.get(slot_event.slot)) is not None:
                listener.on_event(slot_event)
        if frame.logprobs:
            logprobs = frame_logprobs(frame)
            for i, slot in enumerate(frame.slot):
                if (listener := slots.get(slot)) is not None:
                    listener.on_row(
                        frame.choice[i],
                        frame.position[i],
                        frame.token[i],
                        frame.flags[i],
                        logprobs.get(i),
                    )
        else:
            for slot, choice, position, token, flags in zip(
                frame.slot, frame.choice, frame.position, frame.token, frame.flags, strict=True
            ):
                if (listener := slots.get(slot)) is not None:
                    listener.on_row(choice, position, token, flags, None)
        for slot_event in later:
            if (listener := slots.get(slot_event.slot)) is not None:
                listener.on_event(slot_event)
        if frame.HasField("load"):
            try:
                self._owner.on_load(self, frame.load)
            except Exception:
                # What we make of a report, placements included, must not cost us its worker.
                log.exception(*event("load_report_failed", worker=self.worker.worker_id))

    # --- endings ---

    def _set_down(self, reason: str) -> None:
        """The stream is lost. Unsent submissions stay queued; the worker drops unlisted slots."""
        log.warning(*event("session_down", worker=self.worker.worker_id, reason=reason))
        self.is_up = False
        self._outbox.keep_submits(self._slots)
        self._owner.on_down(self, reason)

    def _give_up(self, loss: Loss) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        self.is_up = False
        self._outbox.clear()
        self._owner.on_gone(self, loss)
        lost = WorkerLostError(
            f"worker {self.worker.worker_id} was lost: {loss.reason}", left=loss.cause == "left"
        )
        for slot in list(self._slots):
            self._lose(slot, lost)

    def _lose(self, slot: int, error: WorkerLostError) -> None:
        listener = self._slots.pop(slot, None)
        self._sent.discard(slot)
        if listener is not None:
            listener.on_lost(error)
