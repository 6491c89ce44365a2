"""What gateways hear of a handoff's phases."""

from __future__ import annotations

from baton.core.errors import HandoffError
from baton.core.handoff import SourceOutput
from baton.core.request import FinishReason
from baton.transfer.base import HandoffTiming
from baton.v1 import session_pb2
from baton.worker.handoff_host import EngineHost
from fakes.engines import Driver, prompt, request

KEY = ("s", 7)
SlotEvent = session_pb2.SlotEvent


def adopted(host: EngineHost, driver: Driver, finish: FinishReason | None = None) -> None:
    wanted = request(prompt(10), max_tokens=4)
    reserved = driver.reserve(KEY, wanted)
    assert reserved is not None
    driver.write(wanted, reserved)
    host.adopt(KEY, {0: SourceOutput((5,), finish)})
    host.handed_off(KEY, HandoffTiming(offer_wait_s=0.25, transport="inproc"))


def test_target_says_how_long_its_first_step_took_once() -> None:
    driver = Driver(mock_step_ms=20.0)
    host = EngineHost(driver.engine, driver.clock)
    adopted(host, driver)
    for _ in range(3):
        host.note_first_steps(driver.engine.step().rows)
    (_, handed), (key, stepped) = host.take_events()
    assert handed.kind == SlotEvent.KIND_HANDED_OFF and handed.handoff.transport == "inproc"
    assert (key, stepped.slot, stepped.kind) == (KEY, 7, SlotEvent.KIND_FIRST_STEP)
    assert (stepped.handoff.first_step_s, stepped.handoff.offer_wait_s) == (0.02, 0.25)


def test_nothing_is_kept_of_what_has_no_first_step() -> None:
    driver = Driver()
    host = EngineHost(driver.engine, driver.clock)
    adopted(host, driver, FinishReason.STOP)
    assert not host._adopted_at and not host._offer_waits


def test_failures_say_why_in_a_word() -> None:
    driver = Driver()
    host = EngineHost(driver.engine, driver.clock)
    host.failed(KEY, HandoffError("bytes differ", reason="checksum_mismatch"))
    host.failed(KEY, HandoffError("odd words"))
    reasons = [event.handoff.reason for _, event in host.take_events()]
    assert reasons == ["checksum_mismatch", "contradiction"]
