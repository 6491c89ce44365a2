"""What a target refuses for good: offers that find no room in time, and workers of another model.

NIXL between processes, and inproc. Other handoffs of the same target go on, and nothing is left.
"""

from __future__ import annotations

import pytest

from baton.core.settings import TransferSettings
from fakes.relayed_pair import Pair, numbers, pair_of, says, start_end

S = TransferSettings()
TRANSPORTS = ["inproc", "nixl"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_target_is_out_of_blocks_for_longer_than_the_wait(transport: str) -> None:
    async with pair_of(transport) as pair:
        granted, waits = next(numbers), next(numbers)
        await pair.grant(granted)
        await pair.target.ask("fill_up")
        await pair.offer(waits)
        await pair.until(pair.target, "num_queued")
        # Blocks may be final long before the target has room for them.
        await pair.source.ask("ready", waits, 0, 1)
        await pair.target.ask("advance", S.grant_wait_s + 0.1)
        await says(pair.target, "t", waits, "no free KV blocks")
        await says(pair.source, "s", waits, "the target refused: no free KV blocks")
        # Who had room is not disturbed, and there may be room for others later.
        await pair.source.ask("ready", granted, 0, 3)
        await says(pair.target, "t", granted, "ok")
        await pair.target.ask("make_room")
        await pair.goes_through()
        for number in (granted, waits):
            await pair.forget(number)
        await pair.clean()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_workers_of_another_digest_are_told_why_and_disturb_nobody(transport: str) -> None:
    async with pair_of(transport) as pair:
        going_on, refused = next(numbers), next(numbers)
        await pair.grant(going_on)
        other = await start_end(transport, "other", 5, digest="f" * 32)
        try:
            # A relay would keep the reason to itself.
            refs = await other.ask("ref"), await pair.target.ask("ref")
            stranger = Pair(other, pair.target, pair.relay, *refs)
            await stranger.offer(refused)
            await says(other, "s", refused, "digest")
            # The target waits for an Offer no longer than for any.
            await pair.target.ask("advance", S.offer_wait_s + 0.1)
            await says(pair.target, "t", refused, "offered nothing")
            await pair.source.ask("ready", going_on, 0, 3)
            await says(pair.target, "t", going_on, "ok")
            await pair.forget(going_on)
            await stranger.forget(refused)
            await stranger.clean()
        finally:
            await other.close()
        await pair.goes_through()
        await pair.clean()
