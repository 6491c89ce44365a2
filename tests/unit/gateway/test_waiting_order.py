"""Who waits in front of whom, who is let in and who has to go, with real dispatchers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from baton.core.errors import BatonError, DeadlineExceededError, OverloadedError, WorkerLostError
from fakes.sink import RecordingSink
from fakes.token_plane import TokenPlane, make_request
from fakes.worker import FakeWorker

HIGH, NORMAL, LOW = 1, 0, -1


BusyPlane = Callable[..., Awaitable[TokenPlane]]


@pytest.fixture
async def busy_plane() -> AsyncIterator[BusyPlane]:
    """Opens planes of one worker with one slot, which a request holds until `serve_all`."""
    async with AsyncExitStack() as stack:

        async def open_one(**settings: object) -> TokenPlane:
            plane = TokenPlane(FakeWorker("a", max_running=1), **settings)
            await stack.enter_async_context(plane)
            (worker,) = plane.workers
            worker.mute = True
            plane.submit(seed=1000, max_tokens=1)
            await plane.until(lambda: worker.jobs and not plane.pool.columns.queue_room.any())
            return plane

        yield open_one


async def serve_all(plane: TokenPlane) -> list[int]:
    """Let the worker work; the seeds in the order in which they were placed."""
    (worker,) = plane.workers
    worker.mute = False
    await plane.until(lambda: not plane.num_running)
    plane.assert_nothing_left()
    return [submit.seed for submit in worker.submits[1:]]


def rejections(plane: TokenPlane, reason: str, priority: str) -> float:
    value = plane.metrics.registry.get_sample_value(
        "baton_rejections_total", {"reason": reason, "priority": priority}
    )
    return value or 0.0


async def test_higher_classes_are_placed_first(busy_plane: BusyPlane) -> None:
    plane = await busy_plane()
    for seed, priority in enumerate([LOW, NORMAL, HIGH, LOW, NORMAL, HIGH]):
        plane.submit(seed=seed, priority=priority, max_tokens=2)
    assert await serve_all(plane) == [2, 5, 1, 4, 0, 3]


async def test_priority_between_classes_is_that_of_the_nearest(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(priorities="top=100,usual=0")
    for seed, priority in enumerate([-50, 3, 90, 1000]):
        plane.submit(seed=seed, priority=priority, max_tokens=2)
    assert await serve_all(plane) == [2, 3, 0, 1]


async def test_a_flood_shares_with_those_who_come_later(busy_plane: BusyPlane) -> None:
    plane = await busy_plane()
    for seed in range(6):
        plane.submit(seed=seed, tenant="flood", max_tokens=2)
    for seed in (100, 101):
        plane.submit(seed=seed, tenant="light", max_tokens=2)
    order = await serve_all(plane)
    assert order.index(101) <= 4, "two of light's within the first four or five"
    assert [seed for seed in order if seed < 100] == list(range(6)), "in order inside a tenant"


async def test_tenants_with_weight_get_more(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(tenant_weights="gold=3")
    for seed in range(12):
        plane.submit(seed=seed, tenant="gold", max_tokens=2)
        plane.submit(seed=100 + seed, tenant="plain", max_tokens=2)
    first = (await serve_all(plane))[:12]
    num_gold = sum(seed < 100 for seed in first)
    assert 8 <= num_gold <= 10


async def test_output_counts_as_it_comes(busy_plane: BusyPlane) -> None:
    """Who asks for short prompts and long answers is charged for the answers."""
    plane = await busy_plane()
    (worker,) = plane.workers
    worker.step_s = 0.002
    for seed in range(3):
        plane.submit(seed=seed, tenant="long", prompt_tokens=10, max_tokens=100)
    for seed in range(100, 112):
        plane.submit(seed=seed, tenant="short", prompt_tokens=10, max_tokens=5)
    order = await serve_all(plane)
    # An answer of the one costs as much as ten of the other.
    assert order.index(1) >= 9


async def test_full_queue_gives_way_to_a_higher_class(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(max_queue=3)
    sinks = [
        plane.submit(seed=seed, priority=priority, max_tokens=2)[0]
        for seed, priority in enumerate([LOW, LOW, NORMAL])
    ]
    plane.submit(seed=3, priority=NORMAL, max_tokens=2)
    error = sinks[1].ends[0]
    assert isinstance(error, OverloadedError), "the youngest of the lowest class"
    assert 1 <= error.retry_after_s <= 60
    assert rejections(plane, "displaced", "low") == 1
    with pytest.raises(OverloadedError):
        plane.submit(seed=4, priority=LOW)
    assert rejections(plane, "queue_full", "low") == 1
    assert await serve_all(plane) == [2, 3, 0]


async def test_full_queue_refuses_the_newcomer_by_setting(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(max_queue=1, overload="reject_new")
    plane.submit(seed=0, priority=LOW, max_tokens=2)
    with pytest.raises(OverloadedError):
        plane.submit(seed=1, priority=HIGH)
    assert await serve_all(plane) == [0]


async def test_a_flood_cannot_keep_others_out_of_the_queue(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(max_queue=4)
    flood = [plane.submit(seed=seed, tenant="flood", max_tokens=2)[0] for seed in range(4)]
    plane.submit(seed=100, tenant="light", max_tokens=2)
    plane.submit(seed=101, tenant="light", max_tokens=2)
    assert [bool(sink.ends) for sink in flood] == [False, False, True, True]
    with pytest.raises(OverloadedError):
        plane.submit(seed=102, tenant="light")
    assert set(await serve_all(plane)) == {0, 1, 100, 101}


async def test_what_was_placed_before_is_never_turned_away() -> None:
    async with TokenPlane(FakeWorker("a", max_running=1), max_queue=1) as plane:
        (worker,) = plane.workers
        sink, _ = plane.submit(seed=0, priority=LOW, max_tokens=300)
        await sink.wait_tokens(5)
        worker.max_running = 0
        await plane.until(lambda: not plane.pool.columns.queue_room.any())
        worker.fail_all(WorkerLostError("out of memory"))
        await plane.until(lambda: plane.num_waiting)
        with pytest.raises(OverloadedError):
            plane.submit(seed=1, priority=HIGH)
        worker.max_running = 1
        assert await sink.end() is None
        assert len(sink.tokens[0]) == 300


async def test_many_that_are_late_at_once_are_all_turned_away(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(max_queue=3000)
    sinks = [plane.submit(seed=seed, deadline_s=0.3)[0] for seed in range(2000)]
    last, _ = plane.submit(seed=5000, max_tokens=2)
    await plane.until(lambda: all(sink.ends for sink in sinks))
    assert all(isinstance(sink.ends[0], DeadlineExceededError) for sink in sinks)
    assert rejections(plane, "expired", "normal") == 2000
    assert await serve_all(plane) == [5000]
    assert await last.end() is None


async def test_a_deadline_already_past_is_said_to_be_past(busy_plane: BusyPlane) -> None:
    plane = await busy_plane()
    sink, _ = plane.submit(seed=1, deadline_s=-0.1)
    await plane.until(lambda: sink.ends)
    assert isinstance(sink.ends[0], DeadlineExceededError)


async def test_the_hopeless_are_refused_at_once_with_a_time_to_come_back(
    busy_plane: BusyPlane,
) -> None:
    plane = await busy_plane()
    (worker,) = plane.workers
    worker.step_s = 0.01
    for seed in range(60):
        plane.submit(seed=seed, max_tokens=5)
    worker.mute = False
    # Nothing is known of the pace before some were placed.
    await plane.until(lambda: len(worker.submits) > 20)
    with pytest.raises(OverloadedError, match="predicted") as caught:
        plane.submit(seed=100, deadline_s=0.2)
    assert 1 <= caught.value.retry_after_s <= 60
    assert rejections(plane, "deadline", "normal") == 1
    plane.submit(seed=101, deadline_s=1.5, priority=HIGH, max_tokens=2)
    assert (await serve_all(plane)).count(101) == 1


async def test_prediction_can_be_turned_off(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(early_rejection=False)
    (worker,) = plane.workers
    worker.step_s = 0.01
    for seed in range(40):
        plane.submit(seed=seed, max_tokens=5)
    worker.mute = False
    await plane.until(lambda: len(worker.submits) > 20)
    sink, _ = plane.submit(seed=100, deadline_s=0.2)
    assert isinstance(await sink.end(), DeadlineExceededError)
    await serve_all(plane)


async def test_no_worker_at_all_is_no_reason_to_refuse() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        await plane.store.delete("workers/a")
        await plane.until(lambda: not plane.fleet.workers())
        sink, _ = plane.submit(deadline_s=20, max_tokens=2)
        await plane.add(FakeWorker("b"))
        assert await sink.end() is None


async def test_queue_is_counted_by_class_and_named_tenant(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(tenant_weights="gold=2")
    for priority, tenant in ((HIGH, "gold"), (LOW, "anyone"), (LOW, "someone")):
        plane.submit(priority=priority, tenant=tenant, max_tokens=2)

    def length(priority: str, tenant: str) -> float | None:
        labels = {"priority": priority, "tenant": tenant}
        return plane.metrics.registry.get_sample_value("baton_queue_length", labels)

    assert length("high", "gold") == 1
    assert length("low", "other") == 2
    await serve_all(plane)
    assert length("high", "gold") == length("low", "other") == 0
    assert 'baton_queue_seconds_count{priority="low"} 2.0' in plane.metrics.render().decode()


async def test_a_displaced_request_hears_of_it_once(busy_plane: BusyPlane) -> None:
    plane = await busy_plane(max_queue=1)
    sink = RecordingSink()
    plane.submit(make_request(priority=LOW), sink)
    _, ticket = plane.submit(priority=HIGH, max_tokens=2)
    assert len(sink.ends) == 1
    ticket.cancel("gone")
    errors: list[BatonError | None] = sink.ends
    assert isinstance(errors[0], OverloadedError)
    await serve_all(plane)
