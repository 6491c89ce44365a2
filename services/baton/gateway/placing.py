"""One attempt of a request begins: workers are chosen, booked and told."""

from __future__ import annotations

import random
import secrets

from baton.core.clock import Clock
from baton.gateway.fleet import Fleet
from baton.gateway.ownership import Side
from baton.gateway.placement import Part
from baton.gateway.running import Running
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Booking, Role
from baton.router.selection import Selection, book, select
from baton.telemetry.metrics import Metrics
from baton.v1 import session_pb2
from baton.wire.request import HANDOFF_ID_BYTES, submit_from_request

HandoffRole = session_pb2.HandoffRole


class Placer:
    """Asks the policy, and submits to those it names."""

    def __init__(
        self, fleet: Fleet, policy: Policy, metrics: Metrics, clock: Clock, seed: int | None
    ) -> None:
        self._fleet = fleet
        self._pool = fleet.pool
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._rng = random.Random(seed)

    def place(self, running: Running) -> bool:
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
        self._count(running, selection)
        return True

    def submit_heir(
        self, running: Running, booking: Booking, handoff_id: bytes, origin: Booking
    ) -> Part:
        """Send the attempt under way, as far as it has come, to one more worker."""
        ownership = running.ownership
        submit = submit_from_request(
            ownership.so_far(), attempt=ownership.attempt, now=self._clock()
        )
        return self._submit(running, submit, Side.HEIR, booking, handoff_id, origin)

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

    def _count(self, running: Running, selection: Selection) -> None:
        metrics, policy = self._metrics, self._policy.name
        metrics.queue_time.observe(self._clock() - running.queued_at)
        metrics.attempts.inc()
        decode = self._pool.worker_id(selection.decode)
        if selection.prefill is not None:
            prefill = self._pool.worker_id(selection.prefill)
            metrics.routed.labels(policy, "prefill", prefill).inc()
        elif self._pool.columns.role[selection.decode] == Role.DECODE:
            metrics.handoffs.labels("skipped").inc()
        metrics.routed.labels(policy, "decode", decode).inc()
