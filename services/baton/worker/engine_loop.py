"""The engine's thread: it alone touches the engine, its blocks and the handoffs, so nothing locks.

Only while it waits, with no step to run, may a thread that brings a peer's message stand in for it
(see `Inbox`): two changes of threads per message would be a third of a handoff's fixed cost.
Other threads `post` work to it and hear back through one `publish` call per step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from baton.core.errors import BatonError, HandoffError
from baton.core.handoff import Key
from baton.core.request import Request
from baton.engine.engine import Engine
from baton.engine.outputs import EngineLoad, StepOutput
from baton.telemetry.logging import event
from baton.v1 import session_pb2
from baton.wire.request import check_migrate, request_from_prefetch, request_from_submit
from baton.worker.fetching import EngineFetchHost
from baton.worker.handoff_host import EngineHost
from baton.worker.health import Heartbeat
from baton.worker.inbox import Inbox

if TYPE_CHECKING:
    from baton.transfer.handoffs import Handoffs

log = logging.getLogger(__name__)

SlotEvent = session_pb2.SlotEvent
SIDE_SOURCE = session_pb2.HandoffRole.SIDE_SOURCE
SIDE_TARGET = session_pb2.HandoffRole.SIDE_TARGET
# Longest sleep of an idle loop; deadlines of handoffs shorten it.
IDLE_S = 0.5
INTEGRITY_CHECK_S = 10.0
# A sequence that stands still for its move's last write or check is worth waiting for, up to this:
# otherwise its client waits for a whole step of the others.
HOLD_UP_S = 0.01


class EngineLoop(threading.Thread):
    """Runs `engine.step()` while there is work, and handoffs beside it.

    `publish(output, events, load)` is called on this thread when a step, a handoff or a cancel has
    changed something; it must hand over and return. `died(error)` is called once if the loop
    breaks, `worn_out()` once when too many blocks are in quarantine for good: the worker should
    drain and start again.
    """

    def __init__(
        self,
        engine: Engine,
        publish: Callable[[StepOutput, list[tuple[Key, SlotEvent]], EngineLoad], None],
        died: Callable[[BaseException], None],
        worn_out: Callable[[], None],
        max_growth_tokens: int,
    ) -> None:
        """`max_growth_tokens` is that of TransferSettings."""
        super().__init__(name="engine-loop", daemon=True)
        self.engine = engine
        self.host = EngineHost(engine)
        self.fetch_host = EngineFetchHost(engine, self.host.note_freed)
        self._handoffs: Handoffs | None = None
        self._publish = publish
        self._load: EngineLoad | None = None
        # Submissions so far: the load that is published next knows of them.
        self.num_submitted = 0
        self._died = died
        self._max_growth_tokens = max_growth_tokens
        self._worn_out: Callable[[], None] | None = worn_out
        self._inbox = Inbox(self._serve)
        # When the loop, if it waits, looks at deadlines again.
        self._wakes_at = 0.0
        self._stopping = False
        self._checked_at = 0.0
        self._step_began = 0.0
        self._num_steps = 0
        # When the loop last got round, or past a part of a step.
        self._beat_at = time.monotonic()

    def attach(self, handoffs: Handoffs) -> None:
        """Give the loop its handoffs, before it starts."""
        self._handoffs = handoffs

    @property
    def handoffs(self) -> Handoffs:
        assert self._handoffs is not None, "attach() comes before start()"
        return self._handoffs

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the loop's thread soon. From any thread."""
        self._inbox.post(work)

    def do(self, work: Callable[[], None]) -> None:
        """As `post`, but at once on this thread while the loop is idle."""
        self._inbox.do(work)

    def report(self) -> None:
        """Publish the load even if the engine's own has not changed. From any thread."""

        def forget() -> None:
            self._load = None

        self.post(forget)

    def heartbeat(self) -> Heartbeat:
        """How the loop is. An idle one beats every IDLE_S. From any thread."""
        return Heartbeat(self.is_alive(), time.monotonic() - self._beat_at, self._num_steps)

    def stop(self) -> None:
        """End the thread after what is posted already. From any thread."""

        def end() -> None:
            self._stopping = True

        self.post(end)

    # --- posted by sessions ---

    def submit(self, key: Key, submit: session_pb2.Submit) -> None:
        """Take a submission, or report why not."""
        self.num_submitted += 1
        try:
            request = request_from_submit(submit, time.monotonic())
            # A target gets its KV from its source.
            fetches = submit.HasField("fetch_from") and submit.handoff.side != SIDE_TARGET
            if fetches:
                self.engine.check(request)
        except BatonError as error:
            self.host.failed(key, error)
            return
        if fetches:
            self.fetch_host.begin(
                key,
                request,
                submit.fetch_from,
                self.handoffs.fetch,
                lambda: self._start(key, request, submit),
            )
        else:
            self._start(key, request, submit)

    def _start(self, key: Key, request: Request, submit: session_pb2.Submit) -> None:
        handoff = submit.handoff
        try:
            if handoff.side == SIDE_TARGET:
                self.engine.check(request)
                self.handoffs.start_target(
                    handoff.handoff_id, key, request, submit.attempt, handoff.peer
                )
            elif handoff.side == SIDE_SOURCE:
                self.engine.add(key, request, handoff=True)
                self.host.sources.add(key)
                self.handoffs.start_source(
                    handoff.handoff_id, key, request, submit.attempt, handoff.peer
                )
            else:
                self.engine.add(key, request)
        except BatonError as error:
            # A source whose handoff is refused is in the engine already.
            self._drop(key)
            self.host.failed(key, error)

    def prefetch(self, prefetch: session_pb2.Prefetch) -> None:
        """A prompt is about to come; nobody waits for what this brings about."""
        try:
            request = request_from_prefetch(prefetch, time.monotonic())
            self.engine.check(request)
        except BatonError as error:
            log.warning(*event("prefetch_refused", code=error.code, reason=error.message))
            return
        if not prefetch.HasField("fetch_from"):
            self._promote(request)
        elif self.fetch_host.takes_hints:
            self.fetch_host.begin(
                None,
                request,
                prefetch.fetch_from,
                self.handoffs.fetch,
                lambda: self._promote(request),
            )
        else:
            log.warning(*event("prefetch_dropped", reason="too many fetch already"))

    def _promote(self, request: Request) -> None:
        """Bring a prompt's blocks up from lower tiers, if it is among the first to ask."""
        if not self.engine.prefetch(request):
            log.warning(*event("prefetch_dropped", reason="too many wait for lower tiers already"))

    def migrate(self, key: Key, attempt: int, migrate: session_pb2.Migrate) -> None:
        """Begin to move a decoding submission to another worker, or report why not."""
        try:
            if key in self.host.moving:
                # Its gateway gave the first one up before this worker knew that it had failed.
                raise HandoffError("it is being moved already")
            check_migrate(migrate)
            due, ready = self.engine.migrate(key, migrate.next_position, self._max_growth_tokens)
        except BatonError as error:
            self.host.note_unmoved(key, migrate.handoff_id, error)
            return
        request = self.engine.request(key)
        assert request is not None, "it is being decoded"
        self.host.moving[key] = migrate.handoff_id
        try:
            self.handoffs.start_source(migrate.handoff_id, key, request, attempt, migrate.peer)
        except BatonError as error:
            self.engine.release(key)
            self.host.move_failed(key, error)
            return
        self.handoffs.offer(due)
        self.handoffs.blocks_ready(ready)

    def cancel(self, key: Key) -> None:
        """Stop everything that is done for a submission."""
        self.fetch_host.drop(key)
        self.handoffs.cancel(key, "cancelled")
        self._drop(key)
        self.host.freed = True

    # --- the loop ---

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        log.critical("engine loop died", exc_info=error)
        self._stopping = True
        self._died(error)

    def _serve(self) -> None:
        """An idle loop's turn, on a thread that brings work while the loop waits.

        What may take long is left to the loop: steps, deadlines, and what follows from them.
        """
        if self._stopping:
            return
        try:
            self._work_off(0.0)
            if self.engine.has_work or self.handoffs.holds_up or self._due_at() < self._wakes_at:
                self._inbox.call()
                return
            if self.host.freed:
                self.host.freed = False
                self.handoffs.room_freed()
            self._tell(StepOutput())
        except BaseException as error:
            self._inbox.call()
            self._break(error)

    def _turn(self) -> None:
        engine = self.engine
        self._take_inbox(block=not engine.has_work)
        self._step_began = self._beat_at = time.monotonic()
        if engine.has_work:
            output = engine.step(self._in_step)
            self._num_steps += 1
        else:
            output = StepOutput()
        self._forward(output)
        freed, self.host.freed = self.host.freed, False
        if freed or output.rows or output.failures:
            self.handoffs.room_freed()
        self.handoffs.tick()
        if self.handoffs.must_restart and self._worn_out is not None:
            self._worn_out()
            self._worn_out = None
        self._tell(output)
        if not engine.has_work and time.monotonic() - self._checked_at > INTEGRITY_CHECK_S:
            self._checked_at = time.monotonic()
            engine.check_integrity()

    def _tell(self, output: StepOutput) -> None:
        events = self.host.take_events()
        for _, slot_event in events:
            if slot_event.kind == SlotEvent.KIND_SCHEDULED:
                slot_event.age_s = time.monotonic() - self._step_began
        load = self.engine.load()
        if load != self._load or events or output.rows or output.cache:
            self._load = load
            self._publish(output, events, load)

    def _due_at(self) -> float:
        """The next deadline, or when an idle loop looks around anyway."""
        deadlines = (self.handoffs.next_deadline(), self.engine.next_deadline())
        return min((d for d in deadlines if d is not None), default=time.monotonic() + IDLE_S)

    def _take_inbox(self, *, block: bool) -> None:
        """Run what is posted; when idle, wait for it or for the next handoff deadline."""
        wait = 0.0
        if block:
            now = time.monotonic()
            self._wakes_at = min(self._due_at(), now + IDLE_S)
            wait = max(0.0, self._wakes_at - now)
        self._work_off(wait)
        until = time.monotonic() + HOLD_UP_S
        while self.handoffs.holds_up and (wait := until - time.monotonic()) > 0:
            self._work_off(wait)

    def _work_off(self, wait: float) -> None:
        """Run what is posted within `wait` seconds, and what is there then."""
        if wait:
            self._inbox.wait(wait)
        while (work := self._inbox.pop()) is not None:
            work()

    def _in_step(self, output: StepOutput) -> None:
        """A prompt is being computed for others: send what is final, hear what is granted."""
        self._beat_at = time.monotonic()
        self._forward(output)
        self._work_off(0.0)

    def _forward(self, output: StepOutput) -> None:
        """Tell handoffs and host what a step brought."""
        for scheduled in output.scheduled:
            self.host.note(
                scheduled.key,
                SlotEvent(kind=SlotEvent.KIND_SCHEDULED, cached_tokens=scheduled.cached_tokens),
            )
        if self.host.sources:
            self.host.note_first_tokens(output.rows)
        self.host.note_first_steps(output.rows)
        for due in output.offers:
            self.handoffs.offer(due)
        for ready in output.ready:
            outputs = self.host.take_outputs(ready.key) if ready.done else None
            self.handoffs.blocks_ready(ready, outputs)
        for stopped in output.stopped:
            self.handoffs.move_stopped(stopped)
        for failure in output.unmoved:
            self.handoffs.fail_source(failure.key, failure.error)
            self.host.move_failed(failure.key, failure.error)
        for failure in output.failures:
            log.warning(*event("submission_failed", slot=failure.key[1], code=failure.error.code))
            if failure.key in self.host.sources or failure.key in self.host.moving:
                self.handoffs.fail_source(failure.key, failure.error)
            self.host.moving.pop(failure.key, None)
            self.host.failed(failure.key, failure.error)

    def _drop(self, key: Key) -> None:
        self.engine.abort(key)
        self.host.sources.discard(key)
        self.host.forget_adopted(key)
        self.host.moving.pop(key, None)
