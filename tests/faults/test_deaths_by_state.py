"""A source, a target or their gateway dies, or one of them freezes, with a handoff in every state.

One pair of workers has a handoff in each state at once; another source's handoff goes through the
same target meanwhile. NIXL between processes, and inproc where no process needs to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from baton.core.settings import TransferSettings
from fakes.handoff_ends import BLOCKS, RemoteEnd, handoff_id
from fakes.message_relay import Fault
from fakes.relayed_pair import EndOf, Pair, numbers, pair_of, port_of, ref_behind, says, start_end
from fakes.until import until

S = TransferSettings()
# In the order in which they are brought about: the one without room comes last.
STATES = ("expecting", "granted", "sending", "committed", "adopted", "queued")
HELD = {"expecting": "offer", "granted": "grant", "committed": "commit", "adopted": "accepted"}
TRANSPORTS = ["inproc", "nixl"]
# What a stream to a frozen process comes to when the test machine is so slow that a ping goes
# unanswered: it is given up after 10 s, and the ends fail for that reason.
OR_LOST = "|cannot be reached"


async def in_each_state(pair: Pair) -> dict[str, int]:
    """State -> number of a handoff that stays in it."""
    found = {}
    for state in STATES:
        number = found[state] = next(numbers)
        if state == "queued":
            await pair.target.ask("fill_up")
        held = HELD.get(state)
        fault = pair.relay.add(Fault(held, "delay", handoff_id(number))) if held else None
        await pair.offer(number)
        if state in ("sending", "committed", "adopted"):
            await pair.until(pair.source, "knows", "grants", ("s", number))
            await pair.source.ask("ready", number, 0, 2 if state == "sending" else BLOCKS)
        if fault is not None:
            await until(lambda fault=fault: fault.hits)
        if state == "sending":
            await pair.until(pair.target, "landed", number, 2)
    await pair.until(pair.target, "num_queued")
    return found


@contextlib.asynccontextmanager
async def another_source(pair: Pair, transport: str) -> AsyncIterator[Pair]:
    """A handoff of another worker to the same target, in progress, that must not be disturbed."""
    other = await start_end(transport, "other", 5)
    second = Pair(other, pair.target, pair.relay, await other.ask("ref"), pair.target_ref)
    try:
        yield second
    finally:
        await other.close()


async def kill(victim: EndOf, survivor: EndOf, name: str, epoch: int) -> None:
    if isinstance(victim, RemoteEnd):
        victim.child.kill()
        # Found dead by its pid.
        return
    await victim.close()
    await survivor.ask("peer_dead", name, epoch)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_killed_source(transport: str) -> None:
    async with pair_of(transport) as pair, another_source(pair, transport) as second:
        going_on = next(numbers)
        await second.grant(going_on)
        states = await in_each_state(pair)
        await kill(pair.source, pair.target, "source-inproc", 7)
        await second.source.ask("ready", going_on, 0, BLOCKS)
        await says(pair.target, "t", going_on, "ok")
        for state, number in states.items():
            expected = "ok" if state == "adopted" else "the source cannot be reached"
            await says(pair.target, "t", number, expected)
        await pair.target.ask("make_room")
        # The same worker comes back; what it wrote before can land no more.
        pair.relay.clear()
        pair.source = await start_end(transport, "source", 8)
        pair.source_ref = await pair.source.ask("ref")
        await pair.goes_through()
        await pair.clean()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_killed_target_and_its_successor_at_the_same_address(transport: str) -> None:
    async with pair_of(transport) as pair:
        states = await in_each_state(pair)
        await kill(pair.target, pair.source, "target-inproc", 9)
        for number in states.values():
            await says(pair.source, "s", number, "the target cannot be reached|process died")
        pair.relay.clear()
        pair.target = await start_end(transport, "target", 10)
        pair.relay.retarget(await port_of(pair.target))
        # A gateway that has not heard names the old life: nobody may answer for it.
        stale = next(numbers)
        await pair.source.ask("start_source", stale, pair.target_ref)
        await pair.source.ask("offer", stale)
        await says(pair.source, "s", stale, "the target cannot be reached|process died")
        pair.target_ref = await ref_behind(pair.target, pair.relay)
        await pair.goes_through()
        await pair.clean()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_both_ends_restart(transport: str) -> None:
    async with pair_of(transport) as pair:
        await in_each_state(pair)
        for victim in (pair.source, pair.target):
            if isinstance(victim, RemoteEnd):
                victim.child.kill()
            else:
                await victim.close()
        # What the relay still holds is of two lives that are over.
        pair.source = await start_end(transport, "source", 17)
        pair.target = await start_end(transport, "target", 19)
        pair.relay.retarget(await port_of(pair.target))
        pair.relay.clear()
        pair.source_ref = await pair.source.ask("ref")
        pair.target_ref = await ref_behind(pair.target, pair.relay)
        for _ in range(3):
            await pair.goes_through()
        await pair.clean()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_killed_gateway(transport: str) -> None:
    """Both workers see its session end, and stop what they do for it."""
    async with pair_of(transport) as pair, another_source(pair, transport) as second:
        going_on = next(numbers)
        await second.grant(going_on)
        states = await in_each_state(pair)
        for number in states.values():
            await pair.source.ask("cancel", "s", number)
            await pair.target.ask("cancel", "t", number)
        for state, number in states.items():
            await says(pair.source, "s", number, "stopped")
            # The source's word may come before the gateway's.
            expected = "ok" if state == "adopted" else "stopped|the source gave up"
            await says(pair.target, "t", number, expected)
        await second.source.ask("ready", going_on, 0, BLOCKS)
        await says(pair.target, "t", going_on, "ok")
        await pair.target.ask("make_room")
        pair.relay.clear()
        await pair.goes_through()
        await pair.clean()


async def test_frozen_source() -> None:
    async with pair_of("nixl") as pair, another_source(pair, "nixl") as second:
        assert isinstance(pair.source, RemoteEnd)
        going_on = next(numbers)
        await second.grant(going_on)
        states = await in_each_state(pair)
        pair.source.child.freeze()
        await second.source.ask("ready", going_on, 0, BLOCKS)
        await says(pair.target, "t", going_on, "ok")
        await pair.target.ask("advance", S.commit_wait_s + 0.1)
        why = dict.fromkeys(("granted", "sending", "committed"), "no sign of the source")
        why |= {"expecting": "offered nothing", "queued": "no free KV blocks", "adopted": "ok"}
        for state, number in states.items():
            await says(pair.target, "t", number, why[state] + OR_LOST)
        # It may write as soon as it wakes up: three handoffs' blocks stay apart.
        assert await pair.target.ask("clean") == f"{3 * BLOCKS} quarantined"
        await pair.target.ask("make_room")
        await second.goes_through()
        pair.source.child.thaw()
        for state, number in states.items():
            if state == "adopted":
                pair.relay.clear()
            expected = "ok" if state == "adopted" else "the target refused"
            await says(pair.source, "s", number, expected + OR_LOST)
        await pair.goes_through()
        await pair.clean()


async def test_frozen_target() -> None:
    async with pair_of("nixl", write_wait_s=2.0) as pair:
        assert isinstance(pair.target, RemoteEnd)
        states = await in_each_state(pair)
        pair.target.child.freeze()
        # A write to it hangs, and is given up.
        await pair.source.ask("ready", states["sending"], 2, BLOCKS)
        hung = "writing to the target failed: timed out" + OR_LOST
        await says(pair.source, "s", states["sending"], hung)
        elsewhere = await start_end("nixl", "elsewhere", 5)
        ref = await elsewhere.ask("ref")
        await Pair(pair.source, elsewhere, pair.relay, pair.source_ref, ref).goes_through()
        await elsewhere.close()
        while not all([await pair.source.ask("outcome", "s", n) for n in states.values()]):
            await pair.source.ask("advance", S.accept_wait_s)
            await asyncio.sleep(0.02)
        why = dict.fromkeys(("expecting", "granted", "queued"), "granted no room")
        why |= dict.fromkeys(("committed", "adopted"), "did not say whether it accepted")
        for state, number in states.items():
            await says(pair.source, "s", number, why.get(state, "timed out") + OR_LOST)
        pair.target.child.thaw()
        pair.relay.clear()
        for state, number in states.items():
            expected = "ok" if state == "adopted" else "the source failed|has ended|gave up"
            await says(pair.target, "t", number, expected + OR_LOST)
        await pair.target.ask("make_room")
        await pair.goes_through()
        await pair.clean()
