"""Every message of a handoff lost, late, overtaken, repeated: NIXL between processes, and inproc.

Each case says how both ends must hear of the end, and which clock must pass a deadline for it.
Meanwhile another handoff of the same pair goes through, and afterwards nothing is left of either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from baton.core.settings import TransferSettings
from baton.v1 import transfer_pb2
from fakes.handoff_ends import BLOCKS, handoff_id
from fakes.message_relay import HOW, Fault
from fakes.relayed_pair import Pair, numbers, pair_of, says
from fakes.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

S = TransferSettings()
# --- scenarios, each of which says every kind of message that is listed with it ---


async def normal(pair: Pair, number: int) -> None:
    await pair.run(number)


async def slow_prefill(pair: Pair, number: int) -> None:
    await pair.grant(number)
    seen = pair.relay.seen["status"]
    await pair.source.ask("advance", S.commit_wait_s / 3 + 0.1)
    await until(lambda: pair.relay.seen["status"] > seen)
    await pair.source.ask("ready", number, 0, BLOCKS)


async def ends_with_its_first_token(pair: Pair, number: int) -> None:
    await pair.grant(number)
    await pair.source.ask("ready", number, 0, BLOCKS, True)


async def target_cancels(pair: Pair, number: int) -> None:
    await pair.grant(number)
    await pair.target.ask("cancel", "t", number)


async def source_cancels(pair: Pair, number: int) -> None:
    await pair.grant(number)
    await pair.source.ask("cancel", "s", number)


async def stray_write(pair: Pair, number: int) -> None:
    await pair.grant(number)
    await pair.source.ask("ready", number, 0, BLOCKS - 1)
    await pair.until(pair.target, "landed", number, BLOCKS - 1)
    await pair.target.ask("flip", "t", number, 0, 100, 3)
    await pair.source.ask("ready", number, BLOCKS - 1, BLOCKS)


async def prefill_fails(pair: Pair, number: int) -> None:
    await pair.grant(number)
    await pair.source.ask("compute_fails", number)


@dataclass(frozen=True)
class Case:
    """A message in a scenario: (source, target) outcomes with it, and without it.

    `waits`: whose clock has to pass which deadline when the message is not there.
    """

    name: str
    kind: str
    scenario: Callable[[Pair, int], Awaitable[None]]
    well: tuple[str, str]
    lost: tuple[str, str]
    waits: tuple[tuple[str, float], ...] = ()
    # The source's prompt ends after the fault: it does not know that nobody waits.
    computes_on: bool = False


OK = ("ok", "ok")
NO_GRANT = ("granted no room within 10 s", "the source failed: .*granted no room")
MISMATCH = "checksum_mismatch"
GIVEN_UP = ("the target gave up: client gone", "stopped")
QUIET = S.commit_wait_s + 0.1
# An ended handoff is looked at this often.
REMEMBERED = 60.1
CASES = [
    Case("offer", "offer", normal, OK, NO_GRANT, (("source", S.grant_wait_s),)),
    Case("grant", "grant", normal, OK, NO_GRANT, (("source", S.grant_wait_s),)),
    Case("commit", "commit", normal, OK, OK, (("source", S.accept_wait_s),)),
    Case("accepted", "accepted", normal, OK, OK, (("source", S.accept_wait_s),)),
    Case("status", "status", slow_prefill, OK, OK),
    Case(
        "withdraw",
        "withdraw",
        ends_with_its_first_token,
        OK,
        ("ok", "no sign of the source"),
        (("target", QUIET),),
    ),
    Case(
        "rejected",
        "rejected",
        stray_write,
        (MISMATCH, MISMATCH),
        (MISMATCH, MISMATCH),
        (("source", S.accept_wait_s),),
    ),
    Case("cancel-by-target", "cancel", target_cancels, GIVEN_UP, GIVEN_UP, (), True),
    Case("quiesced", "quiesced", target_cancels, GIVEN_UP, GIVEN_UP, (("target", REMEMBERED),)),
    Case(
        "cancel-by-source",
        "cancel",
        source_cancels,
        ("stopped", "the source (gave up: client gone|has ended)"),
        ("stopped", "the source has ended"),
    ),
    Case(
        "fail",
        "fail",
        prefill_fails,
        ("stopped", "the source failed: .*out of blocks"),
        ("stopped", "no sign of the source"),
        (("target", QUIET),),
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["inproc", "nixl"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """One for all cases: a fault must not spoil what comes after it."""
    async with pair_of(request.param) as it:
        yield it


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_message_fault(pair: Pair, case: Case, how: str) -> None:
    number = next(numbers)
    fault = pair.relay.add(Fault(case.kind, how, handoff_id(number)))
    await case.scenario(pair, number)
    await until(lambda: fault.hits)
    # Of the same pair; its messages also overtake the one that is to be overtaken.
    await pair.goes_through()
    missing = how in ("drop", "delay")
    if missing:
        for side, seconds in case.waits:
            await getattr(pair, side).ask("advance", seconds)
    if case.computes_on:
        await pair.source.ask("ready", number, 0, BLOCKS)
    expected = case.lost if missing else case.well
    await says(pair.source, "s", number, expected[0])
    await says(pair.target, "t", number, expected[1])
    # What was held back comes after all was over.
    pair.relay.clear()
    await pair.goes_through()
    await pair.forget(number)
    await pair.clean()


@pytest.mark.parametrize("how", HOW)
async def test_fetch_fault(pair: Pair, how: str) -> None:
    """A lost Fetch costs its own short deadline; one that comes late lends to nobody."""
    number = next(numbers)
    # The first one opens the stream, which a target that fetches uses, too.
    await pair.goes_through()
    await pair.source.ask("cache", number)
    fault = pair.relay.add(Fault("fetch", how))
    await pair.target.ask("fetch", number, pair.source_ref)
    await until(lambda: fault.hits)
    await pair.goes_through()
    missing = how in ("drop", "delay")
    if missing:
        await pair.target.ask("advance", S.fetch_wait_s + 0.1)
    await says(pair.target, "t", number, "deadline" if missing else "ok")
    pair.relay.clear()
    if how == "delay":
        # Lent to somebody who has given up: refused, and over on both sides.
        await pair.goes_through()
    await pair.target.ask("forget", "t", number)
    await pair.source.ask("evict", number)
    await pair.clean()


async def test_changed_token_is_not_gone_on_from(pair: Pair) -> None:
    """Nothing but the message itself says which token the source sampled."""
    number = next(numbers)

    def change(message: transfer_pb2.HandoffMessage) -> None:
        message.commit.sequences[0].output[0] ^= 1

    fault = pair.relay.add(Fault("commit", "edit", handoff_id(number), edit=change))
    await pair.run(number)
    await until(lambda: fault.hits)
    assert await pair.target.ask("outcome", "t", number) is None
    # As good as lost: it is asked for again.
    await pair.source.ask("advance", S.accept_wait_s)
    await says(pair.source, "s", number, "ok")
    await says(pair.target, "t", number, "ok")
    assert await pair.target.ask("tokens", number) == (7,)
    await pair.forget(number)
    await pair.clean()
