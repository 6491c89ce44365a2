"""The engine's thread: it alone touches the engine, its blocks and the handoffs, so nothing locks.

Other threads `post` work to it and hear back through one `publish` call per step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from baton.core.errors import BatonError
from baton.engine.engine import Engine
from baton.engine.outputs import EngineLoad, Key, StepOutput
from baton.telemetry.logging import event
from baton.v1 import session_pb2
from baton.wire.request import request_from_submit
from baton.worker.handoff_host import EngineHost

if TYPE_CHECKING:
    from baton.transfer.handoffs import Handoffs

log = logging.getLogger(__name__)

SlotEvent = session_pb2.SlotEvent
# Longest sleep of an idle loop; deadlines of handoffs shorten it.
IDLE_S = 0.5
INTEGRITY_CHECK_S = 10.0


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
    ) -> None:
        super().__init__(name="engine-loop", daemon=True)
        self.engine = engine
        self.host = EngineHost(engine)
        self._handoffs: Handoffs | None = None
        self._publish = publish
        self._load: EngineLoad | None = None
        self._died = died
        self._worn_out: Callable[[], None] | None = worn_out
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False
        self._checked_at = 0.0

    def attach(self, handoffs: Handoffs) -> None:
        """Give the loop its handoffs, before it starts."""
        self._handoffs = handoffs

    @property
    def handoffs(self) -> Handoffs:
        assert self._handoffs is not None, "attach() comes before start()"
        return self._handoffs

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` on the loop's thread soon. From any thread."""
        self._inbox.put(work)

    def report(self) -> None:
        """Publish the load even if the engine's own has not changed. From any thread."""

        def forget() -> None:
            self._load = None

        self.post(forget)

    def stop(self) -> None:
        """End the thread after what is posted already. From any thread."""

        def end() -> None:
            self._stopping = True

        self.post(end)

    # --- posted by the session server ---

    def submit(self, key: Key, submit: session_pb2.Submit) -> None:
        """Take a submission, or report why not."""
        try:
            request = request_from_submit(submit, time.monotonic())
            side = submit.handoff.side if submit.HasField("handoff") else 0
            if side == session_pb2.HandoffRole.SIDE_TARGET:
                self.engine.check(request)
                self.handoffs.start_target(
                    submit.handoff.handoff_id, key, request, submit.attempt, submit.handoff.peer
                )
            elif side == session_pb2.HandoffRole.SIDE_SOURCE:
                self.engine.add(key, request, handoff=True)
                self.host.sources.add(key)
                self.handoffs.start_source(
                    submit.handoff.handoff_id, key, request, submit.attempt, submit.handoff.peer
                )
            else:
                self.engine.add(key, request)
        except BatonError as error:
            # A source that could not dial is in the engine already.
            self._drop(key)
            self.host.failed(key, error)

    def cancel(self, key: Key) -> None:
        """Stop everything that is done for a submission."""
        self.handoffs.cancel(key, "cancelled")
        self._drop(key)
        self.host.freed = True

    # --- the loop ---

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            log.critical("engine loop died", exc_info=error)
            self._died(error)

    def _turn(self) -> None:
        engine = self.engine
        self._take_inbox(block=not engine.has_work)
        output = engine.step() if engine.has_work else StepOutput()
        self._forward(output)
        freed, self.host.freed = self.host.freed, False
        if freed or output.rows or output.failures:
            self.handoffs.room_freed()
        self.handoffs.tick()
        if self.handoffs.must_restart and self._worn_out is not None:
            self._worn_out()
            self._worn_out = None
        events = self.host.take_events()
        load = engine.load()
        if load != self._load or events or output.rows or output.cache:
            self._load = load
            self._publish(output, events, load)
        if not engine.has_work and time.monotonic() - self._checked_at > INTEGRITY_CHECK_S:
            self._checked_at = time.monotonic()
            engine.check_integrity()

    def _take_inbox(self, *, block: bool) -> None:
        """Run what is posted; when idle, wait for it or for the next handoff deadline."""
        wait = 0.0
        if block:
            due = self.handoffs.next_deadline()
            wait = IDLE_S if due is None else min(IDLE_S, max(0.0, due - time.monotonic()))
        try:
            work = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            while True:
                work()
                work = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _forward(self, output: StepOutput) -> None:
        """Tell handoffs and host what a step brought."""
        for scheduled in output.scheduled:
            self.host.note(
                scheduled.key,
                SlotEvent(kind=SlotEvent.KIND_SCHEDULED, cached_tokens=scheduled.cached_tokens),
            )
        if self.host.sources:
            self.host.note_first_tokens(output.rows)
        for due in output.offers:
            self.handoffs.offer(due)
        for ready in output.ready:
            outputs = self.host.take_outputs(ready.key) if ready.done else None
            self.handoffs.blocks_ready(
                ready.key, ready.first_index, ready.block_ids, ready.done, outputs
            )
        for failure in output.failures:
            log.warning(*event("submission_failed", slot=failure.key[1], code=failure.error.code))
            if failure.key in self.host.sources:
                self.handoffs.fail_source(failure.key, failure.error)
            self.host.failed(failure.key, failure.error)

    def _drop(self, key: Key) -> None:
        self.engine.abort(key)
        self.host.sources.discard(key)
