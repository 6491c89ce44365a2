"""What handoffs tell of themselves, as metrics."""

from __future__ import annotations

from baton.core.errors import BatonError, HandoffError
from baton.gateway.ownership import Side
from baton.telemetry.metrics import Metrics
from baton.v1 import session_pb2


class HandoffMetrics:
    """One for all handoffs of a gateway."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def adopted(self, side: Side, timing: session_pb2.HandoffTiming) -> None:
        """A side reports success; the source also knows where the time went."""
        metrics = self._metrics
        if side is Side.TARGET:
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

    def failed(self, side: Side, error: BatonError) -> None:
        """A handoff came to nothing on this side."""
        self._metrics.handoffs.labels("failed").inc()
        reason = error.reason if isinstance(error, HandoffError) else error.code
        self._metrics.handoff_failures.labels(side.value, reason).inc()
