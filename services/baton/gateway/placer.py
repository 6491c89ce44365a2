"""One attempt of a request begins: workers are chosen, booked and told."""

from __future__ import annotations

import random
import secrets

from baton.core.clock import Clock
from baton.core.request import Request
from baton.gateway.ownership import Ownership, Side
from baton.gateway.part import Part
from baton.gateway.running import Running
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.prefix_lookup import PrefixLookup
from baton.planner.output_length import OutputLengths
from baton.router.choice import Choice
from baton.router.columns import Role
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Booking
from baton.router.selection import Selection, book, select
from baton.telemetry.metrics import Metrics
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import HANDOFF_ID_BYTES, submit_from_request

HandoffRole = session_pb2.HandoffRole


class Placer:
    """Asks the policy, and submits to those it names."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        prefixes: PrefixLookup | None,
        metrics: Metrics,
        clock: Clock,
        seed: int | None,
    ) -> None:
        """`prefixes` is None where the policy asks for no overlap."""
        self._fleet = fleet
        self._pool = fleet.pool
        self._policy = policy
        self._prefixes = prefixes
        self._metrics = metrics
        self._clock = clock
        self._rng = random.Random(seed)
        self._output_lengths = OutputLengths()

    def view(self, running: Running) -> RequestView:
        """What the policy is told of a request's next attempt."""
        ownership, request = running.ownership, running.request
        overlap = None
        if self._prefixes is not None:
            overlap = self._prefixes.overlap(request.model, running.hashes, ownership.only_output)
        return RequestView(
            request.model,
            ownership.num_tokens,
            ownership.num_choices,
            # A replay is computed by the worker that goes on with it.
            alone=ownership.attempt > 0,
            avoid=running.avoid,
            overlap=overlap,
            affinity=request.affinity,
            expected_output=self._output_lengths.predict(
                request.model, request.tenant, request.sampling.max_tokens
            ),
            request_id=request.request_id,
            began_in=running.placed_in if ownership.attempt and ownership.num_generated else None,
        )

    def place(self, running: Running) -> bool:
        """Begin an attempt on the best workers; False while none can take it."""
        ownership = running.ownership
        # Those who wait are tried again with each load report: most tries end here.
        if not self._pool.has_room(running.request.model):
            return False
        view = self.view(running)
        selection = select(view, self._pool, self._policy, self._rng)
        if selection is None:
            return False
        running.placed_in = self._pool.kind(selection.decode)
        running.choice = Choice(view, self._pool, self._policy, selection)
        request = ownership.begin()
        source, target = book(view, self._pool, selection)
        submit = self._message(ownership, request)
        peer = self._worker(selection.fetch_from)
        if source is None:
            running.parts = [self._submit(running, submit, Side.ALONE, target, fetch_from=peer)]
        else:
            handoff_id = secrets.token_bytes(HANDOFF_ID_BYTES)
            running.parts = [
                self._submit(running, submit, Side.TARGET, target, handoff_id, source),
                self._submit(
                    running, submit, Side.SOURCE, source, handoff_id, target, fetch_from=peer
                ),
            ]
        if self._prefixes is not None:
            for booking in (target, source):
                if booking is not None:
                    self._prefixes.placed(booking.row, running.hashes, ownership.only_output)
        self._count(selection)
        return True

    def ended(self, running: Running) -> None:
        """A request is over: learn how long its answers were."""
        request = running.request
        num_tokens = running.ownership.num_generated // request.num_choices
        if num_tokens:
            self._output_lengths.ended(
                request.model,
                request.tenant,
                num_tokens,
                is_complete=running.ownership.is_complete,
            )

    def submit_heir(
        self, running: Running, booking: Booking, handoff_id: bytes, origin: Booking
    ) -> Part:
        """Send the attempt under way, as far as it has come, to one more worker."""
        ownership = running.ownership
        submit = self._message(ownership, ownership.so_far())
        return self._submit(running, submit, Side.HEIR, booking, handoff_id, origin)

    def _message(self, ownership: Ownership, request: Request) -> session_pb2.Submit:
        return submit_from_request(
            request,
            attempt=ownership.attempt,
            now=self._clock(),
            stream_interval=ownership.stream_interval,
        )

    def _submit(
        self,
        running: Running,
        submit: session_pb2.Submit,
        side: Side,
        booking: Booking,
        handoff_id: bytes = b"",
        peer: Booking | None = None,
        fetch_from: common_pb2.WorkerRef | None = None,
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
        if fetch_from is not None:
            submit.fetch_from.CopyFrom(fetch_from)
        session.submit(submit)
        return part

    def _worker(self, row: int | None) -> common_pb2.WorkerRef | None:
        return None if row is None else self._fleet.session(row).worker

    def _count(self, selection: Selection) -> None:
        metrics, policy = self._metrics, self._policy.name
        metrics.attempts.inc()
        decode = self._pool.worker_id(selection.decode)
        if selection.prefill is not None:
            prefill = self._pool.worker_id(selection.prefill)
            metrics.routed.labels(policy, "prefill", prefill).inc()
        elif self._pool.columns.role[selection.decode] == Role.DECODE:
            metrics.handoffs.labels("skipped").inc()
        metrics.routed.labels(policy, "decode", decode).inc()
