"""From a request to workers and back: a bounded queue, placement, retries, deadlines, cancels.

Implements `generation.Generator`. Requests that no worker can take now wait here, first in first
out per model, and are routed when a worker has room. Everything runs on the gateway's event loop
and nothing waits: one object per request, no task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterable

from baton.core.clock import Clock, monotonic
from baton.core.errors import (
    BatonError,
    DeadlineExceededError,
    HandoffError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
    WorkerLostError,
)
from baton.core.queue_policy.fcfs import Fcfs
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.deadlines import Deadlines
from baton.gateway.fleet import Fleet
from baton.gateway.generation import TokenSink
from baton.gateway.moves import Moves
from baton.gateway.ownership import Ownership, Side, Verdict
from baton.gateway.placement import Part
from baton.gateway.running import Running
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Booking, Role
from baton.router.selection import Selection, book, select
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics
from baton.v1 import session_pb2
from baton.wire.request import HANDOFF_ID_BYTES, submit_from_request

log = logging.getLogger(__name__)

HandoffRole = session_pb2.HandoffRole

# A gateway that has found no worker for so long after its start says so at once.
START_WAIT_S = 10.0
MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
# A prefill worker that was lost may have committed before: the target says so within this, or that
# it has not (it notices the loss too).
ADOPTION_WAIT_S = 2.0
# Weight of the newest pause between two placements in their average.
_ALPHA = 0.1

_SHUTTING_DOWN = "the server is shutting down"


class Dispatcher:
    """See the module. `models` are served here even before their first worker came."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        settings: GatewaySettings,
        metrics: Metrics,
        models: Iterable[str],
        clock: Clock = monotonic,
        seed: int | None = None,
    ) -> None:
        self._fleet = fleet
        self._pool = fleet.pool
        self._policy = policy
        self._settings = settings
        self._metrics = metrics
        self._models = frozenset(models)
        self._clock = clock
        self._rng = random.Random(seed)
        self._started_at = self._placed_at = clock()
        self._pause_s = 0.0
        self._is_stopping = False
        self._running: set[Running] = set()
        self._queues: dict[str, Fcfs[Running]] = {}
        self._num_waiting = 0
        self._deadlines: Deadlines[Running] = Deadlines(self._time_is_up, clock)
        self._all_ended = asyncio.Event()
        self.moves = Moves(
            fleet,
            self._running,
            self._submit_heir,
            self._replay,
            settings.max_moves_per_worker,
            metrics,
            clock,
        )
        fleet.on_room = self.place_waiting

    @property
    def num_running(self) -> int:
        """Requests that have not ended, waiting ones included."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    # --- Generator ---

    def submit(self, request: Request, sink: TokenSink) -> Running:
        """Queue or place a request; see `generation.Generator`."""
        self._admit(request.model)
        now = self._clock()
        ownership = Ownership(request, sink, self._settings.max_attempts)
        running = Running(self, request, ownership, now)
        # Nobody overtakes those who wait.
        if self._queues.get(request.model) or not self._place(running):
            if self._num_waiting >= self._settings.max_queue:
                raise OverloadedError(
                    f"{self._num_waiting} requests wait for a worker already; try again later",
                    retry_after_s=self._retry_after_s(),
                )
            self._enqueue(running)
        self._running.add(running)
        deadline = request.deadline
        if request.model not in self._fleet.models_seen:
            deadline = min(deadline, self._started_at + START_WAIT_S)
        running.timer = self._deadlines.add(running, deadline)
        return running

    def _admit(self, model: str) -> None:
        if self._is_stopping:
            raise UnavailableError(_SHUTTING_DOWN)
        if model in self._fleet.models_seen:
            return
        if model not in self._models:
            known = ", ".join(sorted(self._models | self._fleet.models_seen)) or "none yet"
            raise ModelNotFoundError(f"no model {model!r} here; there is: {known}", param="model")
        if self._clock() - self._started_at >= START_WAIT_S:
            raise self._no_worker(model)

    def _retry_after_s(self) -> float:
        """How long the queue lasts at the pace of late."""
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, self._num_waiting * self._pause_s))

    # --- the end ---

    def start_shutdown(self) -> None:
        """Refuse new requests; those here go on."""
        self._is_stopping = True

    async def finish(self, grace_s: float) -> None:
        """Wait for requests to end for up to `grace_s`, then end the rest with an error."""
        self.start_shutdown()
        if self._running and grace_s > 0:
            self._all_ended.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._all_ended.wait()
            except TimeoutError:
                pass
        for running in list(self._running):
            running.cancel(_SHUTTING_DOWN)
        self._deadlines.close()
        self.moves.close()

    # --- placing ---

    def place_waiting(self) -> None:
        """Place what waits, as far as workers have room."""
        if not self._num_waiting:
            return
        for queue in self._queues.values():
            while (running := queue.peek()) is not None and self._place(running):
                pass

    def _place(self, running: Running) -> bool:
        """Begin an attempt on the best workers; False while none can take it."""
        ownership = running.ownership
        view = RequestView(
            running.request.model,
            ownership.num_tokens,
            ownership.num_choices,
            # A replay is computed by the worker that goes on with it.
            alone=ownership.attempt > 0,
            avoid=running.avoid,
        )
        selection = select(view, self._pool, self._policy, self._rng)
        if selection is None:
            return False
        self._dequeue(running)
        request = ownership.begin()
        source, target = book(view, self._pool, selection)
        submit = submit_from_request(request, attempt=ownership.attempt, now=self._clock())
        if source is None:
            running.parts = [self._submit(running, submit, Side.ALONE, target)]
        else:
            handoff_id = secrets.token_bytes(HANDOFF_ID_BYTES)
            running.parts = [
                self._submit(running, submit, Side.TARGET, target, handoff_id, source),
                self._submit(running, submit, Side.SOURCE, source, handoff_id, target),
            ]
        self._note_placement(running, selection)
        return True

    def _submit(
        self,
        running: Running,
        submit: session_pb2.Submit,
        side: Side,
        booking: Booking,
        handoff_id: bytes = b"",
        peer: Booking | None = None,
    ) -> Part:
        """Send one side of the attempt that has just begun: `submit`, with this side put in."""
        session = self._fleet.session(booking.row)
        part = Part(running, running.ownership, side, session, self._pool, booking)
        submit.slot = part.slot
        if peer is not None:
            handoff = submit.handoff
            handoff.side = (
                HandoffRole.SIDE_SOURCE if side is Side.SOURCE else HandoffRole.SIDE_TARGET
            )
            handoff.handoff_id = handoff_id
            handoff.peer.CopyFrom(self._fleet.session(peer.row).worker)
        session.submit(submit)
        return part

    def _submit_heir(
        self, running: Running, booking: Booking, handoff_id: bytes, origin: Booking
    ) -> Part:
        """Send the attempt under way, as far as it has come, to one more worker."""
        ownership = running.ownership
        submit = submit_from_request(
            ownership.so_far(), attempt=ownership.attempt, now=self._clock()
        )
        return self._submit(running, submit, Side.HEIR, booking, handoff_id, origin)

    def _note_placement(self, running: Running, selection: Selection) -> None:
        now = self._clock()
        self._pause_s += _ALPHA * (now - self._placed_at - self._pause_s)
        self._placed_at = now
        metrics, policy = self._metrics, self._policy.name
        metrics.queue_time.observe(now - running.queued_at)
        metrics.attempts.inc()
        decode = self._pool.worker_id(selection.decode)
        if selection.prefill is not None:
            prefill = self._pool.worker_id(selection.prefill)
            metrics.routed.labels(policy, "prefill", prefill).inc()
        elif self._pool.columns.role[selection.decode] == Role.DECODE:
            metrics.handoffs.labels("skipped").inc()
        metrics.routed.labels(policy, "decode", decode).inc()

    # --- the queue ---

    def _enqueue(self, running: Running, *, front: bool = False) -> None:
        queue = self._queues.setdefault(running.request.model, Fcfs())
        if front:
            queue.push_front(running)
        else:
            queue.push(running)
        running.is_waiting = True
        running.queued_at = self._clock()
        self._num_waiting += 1
        if len(queue) == 1:
            self._tell_of_shortage(running.request.model)
        self._metrics.queue_length.set(self._num_waiting)

    def _tell_of_shortage(self, model: str) -> None:
        """Once for each queue that begins for want of any worker, not for want of room."""
        if not self._fleet.is_ready(model):
            log.warning(*event("requests_wait", model=model, reason=self._fleet.shortage(model)))

    def _dequeue(self, running: Running) -> None:
        """Take it out of the queue, if it is there."""
        if running.is_waiting:
            self._queues[running.request.model].remove(running)
            running.is_waiting = False
            self._num_waiting -= 1
            self._metrics.queue_length.set(self._num_waiting)

    # --- what becomes of it ---

    def adopted(self, part: Part, timing: session_pb2.HandoffTiming) -> None:
        """A side of a handoff reports success; the source also knows where the time went."""
        metrics = self._metrics
        if part.side is Side.TARGET:
            metrics.handoffs.labels("accepted").inc()
            return
        metrics.handoff_grant_wait.observe(timing.grant_wait_s)
        metrics.handoff_verify.observe(timing.verify_s)
        metrics.handoff_bytes.observe(timing.bytes)
        transport = timing.transport
        metrics.handoff_transfer.labels(transport).observe(timing.transfer_s)
        metrics.handoff_exposed.labels(transport).observe(timing.exposed_s)
        if timing.transfer_s > 0:
            metrics.handoff_goodput.labels(transport).observe(timing.bytes / timing.transfer_s)
        exposed = timing.bytes - timing.hidden_bytes
        metrics.handoff_kv.labels(transport, "hidden").inc(timing.hidden_bytes)
        metrics.handoff_kv.labels(transport, "exposed").inc(exposed)

    def first_step(self, timing: session_pb2.HandoffTiming) -> None:
        """A target has gone on from what it was handed."""
        self._metrics.handoff_offer_wait.observe(timing.offer_wait_s)
        self._metrics.handoff_first_step.observe(timing.first_step_s)

    def failed(self, running: Running, part: Part, error: BatonError, *, retryable: bool) -> None:
        """A worker gave the request up: try again elsewhere, or end it."""
        ownership = running.ownership
        was_adopted = ownership.is_adopted
        verdict = ownership.failed(
            part.attempt, part.side, error, retryable=retryable, now=self._clock()
        )
        self._follow(verdict, running, part, error, was_adopted=was_adopted)

    def lost(self, running: Running, part: Part, error: BatonError) -> None:
        """A worker is gone, with all that it held of the request."""
        ownership = running.ownership
        was_adopted = ownership.is_adopted
        verdict = ownership.lost(part.attempt, part.side, error, now=self._clock())
        if verdict is Verdict.WAIT:
            asyncio.get_running_loop().call_later(ADOPTION_WAIT_S, self._still_lost, running, part)
        else:
            self._follow(verdict, running, part, error, was_adopted=was_adopted)

    def _still_lost(self, running: Running, part: Part) -> None:
        error = WorkerLostError("the prefill worker was lost before its KV had been handed over")
        self.failed(running, part, error, retryable=True)

    def _replay(self, running: Running, part: Part) -> None:
        """A worker is about to go, and what it does for a request could not be moved."""
        error = WorkerLostError("the worker that it ran on goes away")
        verdict = running.ownership.leave(part.attempt, part.side)
        self._follow(verdict, running, part, error, was_adopted=True)

    def gap(self, running: Running) -> None:
        """Tokens were lost with the worker that the request was moved away from."""
        ownership = running.ownership
        error = WorkerLostError("a worker was lost with the last tokens that it had made")
        verdict = ownership.gap(ownership.attempt, error, now=self._clock())
        self._follow(verdict, running, None, error, was_adopted=True)

    def _follow(
        self,
        verdict: Verdict,
        running: Running,
        part: Part | None,
        error: BatonError,
        *,
        was_adopted: bool,
    ) -> None:
        """Act on a verdict about the current attempt; `part` is to blame."""
        if verdict is Verdict.NOTHING:
            return
        if part is not None and part.side is not Side.ALONE and not was_adopted:
            self._metrics.handoffs.labels("failed").inc()
            reason = error.reason if isinstance(error, HandoffError) else error.code
            self._metrics.handoff_failures.labels(part.side.value, reason).inc()
        if verdict is Verdict.ENDED:
            self.release(running)
            return
        self._stop_parts(running)
        running.avoid = frozenset() if part is None else frozenset([part.booking.row])
        self._metrics.retries.labels(error.code).inc()
        # It has waited its turn already.
        self._enqueue(running, front=True)
        self.place_waiting()

    def _time_is_up(self, running: Running) -> None:
        model = running.request.model
        if self._clock() >= running.request.deadline:
            if running.is_waiting:
                running.ownership.fail(self._waited_in_vain(model))
            else:
                running.ownership.expire()
        elif model in self._fleet.models_seen:
            # Its first worker came meanwhile.
            running.timer = self._deadlines.add(running, running.request.deadline)
            return
        else:
            running.ownership.fail(self._no_worker(model))
        self.release(running)

    def _no_worker(self, model: str) -> UnavailableError:
        return UnavailableError(
            f"{self._fleet.shortage(model)}; look at `baton workers` and at the workers' logs"
        )

    def _waited_in_vain(self, model: str) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"the request's deadline passed while it waited for a worker: "
            f"{self._fleet.shortage(model)}; look at `baton workers`, start more, or raise the "
            "deadline"
        )

    def release(self, running: Running) -> None:
        """The request has ended: leave nothing of it anywhere. Idempotent."""
        if running not in self._running:
            return
        self._running.remove(running)
        self._deadlines.remove(running, running.timer)
        self._dequeue(running)
        self._stop_parts(running)
        if not self._running:
            self._all_ended.set()
        self.place_waiting()

    def _stop_parts(self, running: Running) -> None:
        if running.moves is not None:
            self.moves.dropped(running)
        parts, running.parts = running.parts, []
        for part in parts:
            part.stop()
