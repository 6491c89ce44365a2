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
from baton.worker.gateway_session import GatewaySession, GatewayStream
from baton.worker.load_news import load_news

log = logging.getLogger(__name__)

# For the first message of a stream.
OPEN_WAIT_S = 5.0


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
        # Of those whose gateways have no stream.
        self._expiries: dict[str, asyncio.TimerHandle] = {}
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
            news = load_news(self._load, load)
            self._load = load
            for session in self._sessions.values():
                session.add_load(load, news, num_submitted)

    # --- streams ---

    async def serve(self, gateway: GatewayStream) -> None:
        """Serve one stream of one gateway, until that has nothing more to say."""
        opening = await _opening(gateway)
        self._check(opening)
        known = self._sessions.get(opening.session_id)
        session = known or GatewaySession(opening.session_id, self._load)
        self._sessions[session.id] = session
        self._attach(session, gateway)
        writer = asyncio.create_task(_write(session, gateway))
        try:
            if known is not None:
                self._resume(session, opening.resume)
            opened = session_pb2.Opened(
                worker=self._me, resumed=known is not None, lease=self._lease()
            )
            gateway.send(session_pb2.SessionResponse(opened=opened))
            await self._read(session, gateway)
        finally:
            writer.cancel()
            self._detach(session, gateway)

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

    def _attach(self, session: GatewaySession, gateway: GatewayStream) -> None:
        if session.stream is not None:
            session.stream.end(Code.ABORTED, "the session was opened again")
        elif (expiry := self._expiries.pop(session.id, None)) is not None:
            expiry.cancel()
        session.attach(gateway)

    def _detach(self, session: GatewaySession, gateway: GatewayStream) -> None:
        if session.stream is not gateway:
            return
        session.detach()
        if session.slots:
            self._expiries[session.id] = asyncio.get_running_loop().call_later(
                self._grace_s, self._expire, session
            )
        else:
            del self._sessions[session.id]

    def _expire(self, session: GatewaySession) -> None:
        """Its gateway did not come back."""
        del self._sessions[session.id], self._expiries[session.id]
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

    # --- requests ---

    async def _read(self, session: GatewaySession, gateway: GatewayStream) -> None:
        async for request in gateway:
            if session.stream is not gateway:
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
        """Wait for no gateway any more; streams end with the server."""
        for expiry in self._expiries.values():
            expiry.cancel()
        self._expiries.clear()


async def _opening(gateway: GatewayStream) -> session_pb2.Open:
    """A stream's first message. Raises StreamError."""
    try:
        async with asyncio.timeout(OPEN_WAIT_S):
            first = await gateway.read()
    except TimeoutError:
        raise StreamError(Code.DEADLINE_EXCEEDED, "no `open` came") from None
    if first is None or not first.HasField("open"):
        raise StreamError(Code.INVALID_ARGUMENT, "the first message of a session must be `open`")
    return first.open


async def _write(session: GatewaySession, gateway: GatewayStream) -> None:
    """Send frames; what comes while the gateway is behind joins the next one."""
    try:
        while True:
            await session.wake.wait()
            await gateway.writable()
            if session.stream is not gateway:
                return
            session.wake.clear()
            if (frame := session.take_frame()) is not None:
                gateway.send(session_pb2.SessionResponse(frame=frame))
    except Exception as error:
        log.exception(*event("session_failed", session=session.id))
        gateway.end(Code.INTERNAL, f"no frame can be made: {type(error).__name__}")
