"""The worker's end of the token plane: one session for each gateway.

A session outlives its stream for `session_grace_s`: what its gateway has not confirmed is kept and
sent again when it resumes. Everything here runs on the worker's asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from baton.core.errors import WorkerLostError
from baton.core.handoff import Key
from baton.core.settings import WorkerSettings
from baton.engine.outputs import TokenRow
from baton.telemetry.logging import event
from baton.v1 import common_pb2, session_pb2
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import Stream
from baton.worker.gateway_session import GatewaySession, LoadNews

log = logging.getLogger(__name__)

GatewayStream = Stream[session_pb2.SessionResponse, session_pb2.SessionRequest]
# A gateway takes a worker that it does not hear for seconds as lost.
HEARTBEAT_S = 1.0
# For the first message of a stream.
OPEN_WAIT_S = 5.0
# What changes with every step as long as all goes on as before.
_GRADUAL = (
    "free_blocks",
    "cached_blocks",
    "reserved_blocks",
    "pinned_blocks",
    "fetched_blocks",
    "promotions",
    "promotion_timeouts",
    "tiers",
    "links",
)


class Sessions:
    """SessionService. The `on_` functions must hand over and return.

    `on_cancel` and `on_migrate` may name submissions that have ended; those are to be ignored.
    `on_migrate` is told the submission's attempt, too.
    """

    def __init__(
        self,
        me: common_pb2.WorkerRef,
        lease: Callable[[], common_pb2.WorkerLease],
        on_submit: Callable[[Key, session_pb2.Submit], None],
        on_cancel: Callable[[Key], None],
        on_migrate: Callable[[Key, int, session_pb2.Migrate], None],
        on_prefetch: Callable[[session_pb2.Prefetch], None],
        settings: WorkerSettings,
    ) -> None:
        self._me = me
        self._lease = lease
        self._on_submit = on_submit
        self._on_cancel = on_cancel
        self._on_migrate = on_migrate
        self._on_prefetch = on_prefetch
        self._grace_s = settings.session_grace_s
        self._sessions: dict[str, GatewaySession] = {}
        self._load: session_pb2.Load | None = None
        # Submissions handed over, of all sessions together.
        self._num_submitted = 0

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def num_slots(self) -> int:
        """Submissions that are not forgotten yet. From any thread."""
        return sum(len(session.slots) for session in list(self._sessions.values()))

    def publish(
        self,
        rows: Sequence[TokenRow],
        events: Sequence[tuple[Key, session_pb2.SlotEvent]],
        load: session_pb2.Load | None,
        num_submitted: int = 0,
    ) -> None:
        """One engine step's news. Each gateway gets at most one frame of it.

        The load counts the first `num_submitted` of the submissions handed to `on_submit`.
        """
        for row in rows:
            session_id, slot_id = row.key
            if (session := self._sessions.get(session_id)) is not None:
                session.add_row(slot_id, row)
        for (session_id, slot_id), slot_event in events:
            if (session := self._sessions.get(session_id)) is not None:
                session.add_event(slot_id, slot_event)
        if load is not None:
            news = self._take_load(load)
            for session in self._sessions.values():
                if load.draining or load.short_of_blocks:
                    # What is moved from here goes on from what its gateway has.
                    session.send_held()
                session.add_load(news, num_submitted)

    def _take_load(self, load: session_pb2.Load) -> LoadNews:
        """Keep the newest load; how much gateways need to hear of it.

        Averages and the time left move with every step; alone they are no news.
        """
        old, self._load = self._load, load
        if old is None:
            return LoadNews.SUDDEN
        plain = session_pb2.Load()
        plain.CopyFrom(load)
        plain.sequence_number = old.sequence_number
        plain.prefill_tokens_per_s = old.prefill_tokens_per_s
        plain.prefill_step_s = old.prefill_step_s
        plain.step_s = old.step_s
        if old.leaving_in_ms and load.leaving_in_ms:
            plain.leaving_in_ms = old.leaving_in_ms
        if plain == old:
            return LoadNews.NONE
        # What is left of both without what changes all the time.
        before = session_pb2.Load()
        before.CopyFrom(old)
        for name in _GRADUAL:
            plain.ClearField(name)
            before.ClearField(name)
        return LoadNews.GRADUAL if plain == before else LoadNews.SUDDEN

    async def serve(self, gateway: GatewayStream) -> None:
        """Serve one stream of one gateway."""
        first = None
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                first = await gateway.read()
        except TimeoutError:
            raise StreamError(Code.DEADLINE_EXCEEDED, "no `open` came") from None
        if first is None or not first.HasField("open"):
            raise StreamError(
                Code.INVALID_ARGUMENT, "the first message of a session must be `open`"
            )
        self._check(first.open)
        known = self._sessions.get(first.open.session_id)
        session = known or GatewaySession(first.open.session_id)
        self._sessions[session.id] = session
        stream, wake = self._attach(session)
        if known is not None:
            self._resume(session, first.open.resume)
        session.reader = asyncio.create_task(self._read(session, stream, gateway))
        reader = session.reader
        # When the gateway has nothing more to say, this stream ends too.
        reader.add_done_callback(lambda task: self._read_ended(task, wake))
        try:
            opened = session_pb2.Opened(
                worker=self._me, resumed=known is not None, lease=self._lease()
            )
            gateway.send(session_pb2.SessionResponse(opened=opened))
            wake.set()
            self._beat_later(session, stream)
            await self._write(session, stream, wake, reader, gateway)
            if session.stream is not stream:
                raise StreamError(Code.ABORTED, "the session was opened again")
            await reader
        finally:
            reader.cancel()
            self._detach(session, stream)

    def _beat_later(self, session: GatewaySession, stream: object) -> None:
        """Have a frame sent every second, as long as this stream is the session's."""
        asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat, session, stream)

    def _beat(self, session: GatewaySession, stream: object) -> None:
        if session.stream is stream:
            session.beat()
            self._beat_later(session, stream)

    def _check(self, opening: session_pb2.Open) -> None:
        lease = self._lease()
        if not opening.session_id:
            raise StreamError(Code.INVALID_ARGUMENT, "session_id is empty")
        if opening.worker_epoch not in (0, self._me.epoch):
            raise StreamError(
                Code.FAILED_PRECONDITION,
                f"worker {self._me.worker_id} has a new epoch: the process was restarted",
            )
        if not lease.protocol_min <= opening.protocol <= lease.protocol_max:
            raise StreamError(
                Code.FAILED_PRECONDITION,
                f"protocol {opening.protocol} is not among this worker's "
                f"{lease.protocol_min} to {lease.protocol_max}",
            )

    def _attach(self, session: GatewaySession) -> tuple[object, asyncio.Event]:
        """Make a new stream the session's; an older one that still lives must end."""
        if session.grace is not None:
            session.grace.cancel()
            session.grace = None
        if session.reader is not None:
            session.reader.cancel()
        session.wake.set()
        session.stream, session.wake = object(), asyncio.Event()
        session.clear()
        return session.stream, session.wake

    def _detach(self, session: GatewaySession, stream: object) -> None:
        if session.stream is not stream:
            return
        session.stream = session.reader = None
        session.clear()
        if session.slots:
            session.grace = asyncio.get_running_loop().call_later(
                self._grace_s, self._expire, session
            )
        else:
            self._sessions.pop(session.id, None)

    def _expire(self, session: GatewaySession) -> None:
        """Its gateway did not come back."""
        self._sessions.pop(session.id, None)
        if session.slots:
            log.warning(*event("session_lost", session=session.id, slots=len(session.slots)))
        for slot in session.slots:
            self._on_cancel((session.id, slot))
        session.slots.clear()

    def _resume(self, session: GatewaySession, points: Iterable[session_pb2.ResumePoint]) -> None:
        """Queue again what the gateway has not seen; drop what it no longer wants."""
        wanted: dict[int, dict[int, int]] = {}
        for point in points:
            wanted.setdefault(point.slot, {})[point.choice] = point.next_position
        for slot_id in [s for s in session.slots if s not in wanted]:
            self._cancel(session, slot_id)
        for slot_id, next_positions in wanted.items():
            if slot_id in session.slots:
                session.resume(slot_id, next_positions)
                continue
            session.add_lost(
                session_pb2.SlotEvent(
                    slot=slot_id,
                    kind=session_pb2.SlotEvent.KIND_FAILED,
                    code=WorkerLostError.code,
                    message="the submission was lost with a broken stream",
                    retryable=True,
                )
            )

    async def _write(
        self,
        session: GatewaySession,
        stream: object,
        wake: asyncio.Event,
        reader: asyncio.Task[None],
        gateway: GatewayStream,
    ) -> None:
        """Send frames; what comes while the gateway is behind joins the next one."""
        while True:
            await wake.wait()
            await gateway.writable()
            wake.clear()
            if session.stream is not stream or reader.done():
                return
            frame = session.take_frame(self._load)
            if frame is not None:
                gateway.send(session_pb2.SessionResponse(frame=frame))

    async def _read(
        self,
        session: GatewaySession,
        stream: object,
        gateway: GatewayStream,
    ) -> None:
        async for request in gateway:
            if session.stream is not stream:
                return
            for submit in request.submits:
                self._submit(session, submit)
            for cancel in request.cancels:
                self._cancel(session, cancel.slot)
            for slot_id in request.forget.slots:
                session.drop(slot_id)
            for migrate in request.migrates:
                self._migrate(session, migrate)
            for prefetch in request.prefetches:
                self._on_prefetch(prefetch)

    def _read_ended(self, task: asyncio.Task[None], wake: asyncio.Event) -> None:
        if not task.cancelled():
            # The stream's handler raises it, unless the connection is lost.
            task.exception()
        wake.set()

    def _submit(self, session: GatewaySession, submit: session_pb2.Submit) -> None:
        if submit.slot in session.slots:
            log.error(*event("slot_used_twice", session=session.id, slot=submit.slot))
            return
        self._num_submitted += 1
        session.submit(submit, self._num_submitted)
        self._on_submit((session.id, submit.slot), submit)

    def _cancel(self, session: GatewaySession, slot_id: int) -> None:
        if session.drop(slot_id):
            self._on_cancel((session.id, slot_id))

    def _migrate(self, session: GatewaySession, migrate: session_pb2.Migrate) -> None:
        slot = session.slots.get(migrate.slot)
        if slot is None:
            return
        # Who moves it again knows that the last move failed; repeated, it would be of this one.
        failed = session_pb2.SlotEvent.KIND_MOVE_FAILED
        slot.events = [e for e in slot.events if e.kind != failed]
        self._on_migrate((session.id, migrate.slot), slot.attempt, migrate)

    def close(self) -> None:
        """Stop the timers; streams end with the server."""
        for session in self._sessions.values():
            if session.grace is not None:
                session.grace.cancel()
        self._sessions.clear()
