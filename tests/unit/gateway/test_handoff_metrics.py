"""What becomes of the phases and failures that workers report of handoffs."""

from __future__ import annotations

from baton.core.errors import HandoffError
from baton.v1 import session_pb2
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker

SlotEvent = session_pb2.SlotEvent


async def test_phases_of_both_sides_are_counted_once() -> None:
    async with TokenPlane(FakeWorker("p", role="prefill"), FakeWorker("d", role="decode")) as plane:
        _, running = plane.submit(max_tokens=1000)
        target, source = running.parts
        handed = SlotEvent(kind=SlotEvent.KIND_HANDED_OFF)
        handed.handoff.bytes, handed.handoff.hidden_bytes = 4000, 3000
        handed.handoff.transfer_s, handed.handoff.exposed_s = 2.0, 0.5
        handed.handoff.transport = "nixl"
        stepped = SlotEvent(kind=SlotEvent.KIND_FIRST_STEP)
        stepped.handoff.offer_wait_s, stepped.handoff.first_step_s = 0.25, 0.125
        for _ in range(2):
            # A session that resumes sends them again.
            source.on_event(handed)
            target.on_event(stepped)
        text = plane.metrics.render().decode()
        for line in (
            'baton_handoff_kv_bytes_total{overlap="hidden",transport="nixl"} 3000.0',
            'baton_handoff_kv_bytes_total{overlap="exposed",transport="nixl"} 1000.0',
            'baton_handoff_exposed_seconds_sum{transport="nixl"} 0.5',
            'baton_handoff_transfer_seconds_sum{transport="nixl"} 2.0',
            'baton_handoff_goodput_bytes_per_second_sum{transport="nixl"} 2000.0',
            "baton_handoff_offer_wait_seconds_sum 0.25",
            "baton_handoff_first_step_seconds_sum 0.125",
        ):
            assert line in text


async def test_failures_are_counted_by_reason() -> None:
    async with TokenPlane(FakeWorker("p", role="prefill"), FakeWorker("d", role="decode")) as plane:
        _, running = plane.submit(max_tokens=1000)
        target, _ = running.parts
        failed = SlotEvent(kind=SlotEvent.KIND_FAILED, code=HandoffError.code, retryable=True)
        failed.handoff.reason = "checksum_mismatch"
        target.on_event(failed)
        text = plane.metrics.render().decode()
        name = "baton_handoff_failures_total"
        assert f'{name}{{reason="checksum_mismatch",side="target"}} 1.0' in text
