"""Running sequences move between decode workers: real processes, real NIXL, a scripted gateway.

The mock engine asserts that the KV it reads is the KV it should read, and its tokens depend on
nothing but the request; the torch engine runs in float64, where rounding cannot flip a token.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import pytest

from baton.v1 import session_pb2, worker_pb2
from baton.wire.streams.client import ask
from baton.wire.streams.methods import UNDRAIN
from baton.wire.streams.status import Code, StreamError
from fakes.scripted_gateway import TOKEN, ScriptedGateway, Stream

Event = session_pb2.SlotEvent
STEP_S = 0.01
MOCK = {
    "BATON_ENGINE__KIND": "mock",
    "BATON_ENGINE__MOCK_STEP_MS": str(STEP_S * 1000),
    "BATON_ENGINE__KV_BLOCKS": "1000",
    # Deaths and silence are noticed soon.
    "BATON_TRANSFER__ACCEPT_WAIT_S": "0.5",
    "BATON_TRANSFER__OFFER_WAIT_S": "2",
}


def stream(seed: int, *, prompt: int = 100, max_tokens: int = 200, **sampling: object) -> Stream:
    rng = random.Random(seed)
    chosen = {"max_tokens": max_tokens, "temperature": 1.0, "ignore_eos": True, **sampling}
    return Stream(tuple(rng.randrange(10, 2000) for _ in range(prompt)), chosen, seed)


async def undisturbed(gateway: ScriptedGateway, like: Stream, where: str) -> list[int]:
    alone = Stream(like.prompt, like.sampling, like.seed)
    await gateway.workers[where].submit(alone)
    return await alone.end()


@pytest.fixture
async def pair() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway.start("a", "b", **MOCK) as gateway:
        yield gateway


async def settled(gateway: ScriptedGateway, *names: str) -> None:
    for name in names:
        await gateway.workers[name].all_free()


async def test_tokens_equal_the_undisturbed_run_there_and_back(pair: ScriptedGateway) -> None:
    moved = stream(1, prompt=777, max_tokens=150)
    expected = await undisturbed(pair, moved, "b")
    slot = await pair.workers["a"].submit(moved)
    place = "a"
    for count in (20, 60, 100):
        await moved.until_tokens(count)
        heir = "b" if place == "a" else "a"
        slot = await pair.move(moved, slot, place, heir)
        done = moved.kinds(place).count(Event.KIND_HANDED_OFF) + 1
        await moved.until(lambda n=done, p=place: moved.kinds(p).count(Event.KIND_HANDED_OFF) == n)
        place = heir
    assert await moved.end() == expected
    assert Event.KIND_FAILED not in [event.kind for _, _, event in moved.events]
    await settled(pair, "a", "b")


async def test_pause_is_at_most_two_steps_and_the_tails_transfer(pair: ScriptedGateway) -> None:
    """Counted in steps that others on the target see meanwhile, so that a busy machine, where all
    are slow, decides nothing.
    """
    other = stream(100, max_tokens=4000)
    await pair.workers["b"].submit(other)
    streams = [stream(i, prompt=50 * (i + 1), max_tokens=400) for i in range(15)]
    slots = [await pair.workers["a"].submit(s) for s in streams]
    pauses, num_steps = [], []
    for moved, slot in zip(streams, slots, strict=True):
        await moved.until_tokens(30)
        await pair.move(moved, slot, "a", "b")
        await moved.until(lambda s=moved: Event.KIND_HANDED_OFF in s.kinds("b"))
        await moved.until_tokens(len(moved.output) + 5)
        first = moved.first_from["b"]
        began, ended = moved.came_at[first - 1], moved.came_at[first]
        pauses.append(ended - began)
        num_steps.append(sum(began < at <= ended for at in other.came_at.values()))
    usual = sorted(gap for s in streams for gap in s.gaps())
    middle = len(pauses) // 2
    print(
        f"\nusual gap {usual[len(usual) // 2] * 1e3:.1f} ms; pause of a move: median "
        f"{sorted(pauses)[middle] * 1e3:.1f} ms, longest {max(pauses) * 1e3:.1f} ms; steps that "
        f"the target made meanwhile: {sorted(num_steps)}"
    )
    # The step that the target is in, the next one, and one more for the tail's time.
    assert sorted(num_steps)[middle] <= 3


async def test_many_running_sequences_move_at_once(pair: ScriptedGateway) -> None:
    streams = [
        stream(i, prompt=10 + 37 * i % 400, max_tokens=120 + i, temperature=float(i % 2))
        for i in range(40)
    ]
    expected = await asyncio.gather(*(undisturbed(pair, s, "b") for s in streams))
    slots = [await pair.workers["a"].submit(s) for s in streams]
    await asyncio.gather(*(s.until_tokens(10) for s in streams))
    for moved, slot in zip(streams, slots, strict=True):
        await pair.move(moved, slot, "a", "b")
    assert await asyncio.gather(*(s.end() for s in streams)) == expected
    moved_away = [s for s in streams if Event.KIND_HANDED_OFF in s.kinds("b")]
    assert len(moved_away) >= 30, "most had not ended before"
    await settled(pair, "a", "b")


async def test_what_ends_while_it_moves_ends_once_and_quietly(pair: ScriptedGateway) -> None:
    streams = [stream(i, max_tokens=12 + i % 6) for i in range(24)]
    expected = await asyncio.gather(*(undisturbed(pair, s, "b") for s in streams))
    slots = [await pair.workers["a"].submit(s) for s in streams]
    for moved, slot in zip(streams, slots, strict=True):
        await moved.until_tokens(10)
        await pair.move(moved, slot, "a", "b")
    assert await asyncio.gather(*(s.end() for s in streams)) == expected
    for ended in streams:
        heard = ended.kinds("a") + ended.kinds("b")
        assert heard.count(Event.KIND_HANDED_OFF) in (0, 2)
    await settled(pair, "a", "b")


async def test_cancel_during_a_move_frees_both_ends(pair: ScriptedGateway) -> None:
    for i in range(12):
        moved = stream(i, prompt=600, max_tokens=2000)
        slot = await pair.workers["a"].submit(moved)
        await moved.until_tokens(5)
        heir = await pair.move(moved, slot, "a", "b")
        await asyncio.sleep(0.004 * i)
        await pair.workers["a"].cancel(slot)
        await pair.workers["b"].cancel(heir)
    await settled(pair, "a", "b")


async def test_a_cancelled_heir_leaves_the_sequence_where_it_is(pair: ScriptedGateway) -> None:
    for i in range(8):
        moved = stream(i, prompt=600, max_tokens=60)
        expected = await undisturbed(pair, moved, "a")
        slot = await pair.workers["a"].submit(moved)
        await moved.until_tokens(20)
        heir = await pair.move(moved, slot, "a", "b")
        await pair.workers["b"].cancel(heir)
        await moved.until(lambda s=moved: Event.KIND_MOVE_FAILED in s.kinds("a"))
        assert await moved.end() == expected
    await settled(pair, "a", "b")


async def test_several_choices_are_refused(pair: ScriptedGateway) -> None:
    moved = Stream(tuple(range(10, 60)), {"max_tokens": 100, "temperature": 0.0}, 1, num_choices=2)
    slot = await pair.workers["a"].submit(moved)
    await moved.until_tokens(5)
    await pair.move(moved, slot, "a", "b")
    await moved.until(lambda: Event.KIND_MOVE_FAILED in moved.kinds("a"))
    (failed,) = [e for _, _, e in moved.events if e.kind == Event.KIND_MOVE_FAILED]
    assert failed.code == "unsupported"
    await moved.end()


@pytest.mark.parametrize("step", ["receive:offer", "send:grant", "receive:commit", "send:accepted"])
async def test_target_dies_at_each_step(step: str) -> None:
    """Before its commit the source goes on; after it, it says that it cannot know."""
    async with ScriptedGateway.start("a", "b", mortal={"b": step}, **MOCK) as gateway:
        moved = stream(1, prompt=500, max_tokens=120)
        expected = await undisturbed(gateway, moved, "a")
        slot = await gateway.workers["a"].submit(moved)
        await moved.until_tokens(20)
        await gateway.move(moved, slot, "a", "b")
        kinds = {Event.KIND_MOVE_FAILED, Event.KIND_FAILED}
        await moved.until(lambda: bool(kinds & set(moved.kinds("a"))))
        if step in ("receive:commit", "send:accepted"):
            assert Event.KIND_MOVE_FAILED not in moved.kinds("a")
            failed = moved.events[-1][2]
            assert failed.kind == Event.KIND_FAILED and failed.retryable
            count = len(moved.output)
            await asyncio.sleep(10 * STEP_S)
            assert len(moved.output) == count, "it never goes on"
            assert moved.output == expected[:count]
        else:
            assert await moved.end() == expected
        await settled(gateway, "a")


async def test_a_frozen_target_costs_no_more_than_the_stop(pair: ScriptedGateway) -> None:
    moved = stream(1, prompt=500, max_tokens=300)
    expected = await undisturbed(pair, moved, "a")
    slot = await pair.workers["a"].submit(moved)
    await moved.until_tokens(20)
    pair.workers["b"].process.send_signal(signal.SIGSTOP)
    await pair.move(moved, slot, "a", "b")
    await moved.until(lambda: Event.KIND_MOVE_FAILED in moved.kinds("a"))
    assert await moved.end() == expected
    pair.workers["b"].process.send_signal(signal.SIGCONT)
    await settled(pair, "a", "b")


@pytest.mark.parametrize("step", ["send:offer", "receive:grant", "send:commit", "receive:accepted"])
async def test_source_dies_at_each_step(step: str) -> None:
    """The target adopts what was committed, and else lets go of everything."""
    async with ScriptedGateway.start("a", "b", mortal={"a": step}, **MOCK) as gateway:
        moved = stream(1, prompt=500, max_tokens=120)
        expected = await undisturbed(gateway, moved, "b")
        slot = await gateway.workers["a"].submit(moved)
        await moved.until_tokens(20)
        await gateway.move(moved, slot, "a", "b")
        kinds = {Event.KIND_HANDED_OFF, Event.KIND_FAILED}
        await moved.until(lambda: bool(kinds & set(moved.kinds("b"))))
        if step == "receive:accepted":
            assert Event.KIND_HANDED_OFF in moved.kinds("b")
            assert await moved.end() == expected
        else:
            assert Event.KIND_FAILED in moved.kinds("b")
            # A replay from the tokens that have come.
            await gateway.workers["b"].submit(moved, attempt=2)
            assert await moved.end() == expected
        await settled(gateway, "b")


async def test_draining_is_told_at_once_and_can_be_undone(pair: ScriptedGateway) -> None:
    worker = pair.workers["a"]
    running = stream(1)
    await worker.submit(running)
    await running.until_tokens(1)
    assert await pair.drain("a") == 1
    assert await pair.drain("a") == 1, "it may be repeated"
    await worker.until(lambda load: load.draining)
    # What was on its way is served.
    late = stream(2)
    expected = await undisturbed(pair, late, "b")
    await worker.submit(late)
    assert await late.end() == expected
    await ask(worker.ref.address, TOKEN, UNDRAIN, worker_pb2.UndrainRequest(), 30.0)
    await worker.until(lambda load: not load.draining)


async def test_sigterm_waits_until_everything_has_moved(pair: ScriptedGateway) -> None:
    moved = stream(1, max_tokens=300)
    expected = await undisturbed(pair, moved, "b")
    a = pair.workers["a"]
    slot = await a.submit(moved)
    await moved.until_tokens(10)
    a.process.terminate()
    await a.until(lambda load: load.draining)
    with pytest.raises(StreamError) as refused:
        await ask(a.ref.address, TOKEN, UNDRAIN, worker_pb2.UndrainRequest(), 30.0)
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert a.process.poll() is None
    await pair.move(moved, slot, "a", "b")
    await moved.until(lambda: Event.KIND_HANDED_OFF in moved.kinds("a"))
    await a.forget_all()
    assert await asyncio.to_thread(a.process.wait, 20) == 0
    assert await moved.end() == expected


async def test_drain_grace_bounds_the_wait() -> None:
    environment = {**MOCK, "BATON_WORKER__DRAIN_GRACE_S": "0.3"}
    async with ScriptedGateway.start("a", **environment) as gateway:
        running = stream(1, max_tokens=2000)
        a = gateway.workers["a"]
        await a.submit(running)
        await running.until_tokens(1)
        a.process.terminate()
        assert await asyncio.to_thread(a.process.wait, 20) == 0


async def test_float64_model_continues_exactly_elsewhere() -> None:
    environment = {
        "BATON_MODEL__DTYPE": "float64",
        "BATON_ENGINE__KV_BLOCKS": "400",
        "BATON_ENGINE__NUM_THREADS": "1",
    }
    async with ScriptedGateway.start("a", "b", **environment) as gateway:
        streams = [
            stream(i, prompt=30 + 50 * i, max_tokens=60, temperature=float(i % 2)) for i in range(6)
        ]
        streams.append(stream(9, max_tokens=60, presence_penalty=0.5, frequency_penalty=0.5))
        expected = await asyncio.gather(*(undisturbed(gateway, s, "b") for s in streams))
        slots = [await gateway.workers["a"].submit(s) for s in streams]
        for moved, slot in zip(streams, slots, strict=True):
            await moved.until_tokens(10)
            await gateway.move(moved, slot, "a", "b")
        assert await asyncio.gather(*(s.end() for s in streams)) == expected
        assert sum(Event.KIND_HANDED_OFF in s.kinds("b") for s in streams) >= 4
        await settled(gateway, "a", "b")
