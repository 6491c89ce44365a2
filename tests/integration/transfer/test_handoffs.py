"""Handoffs of two workers over real streams: the protocol, room, and writes that go wrong."""

from __future__ import annotations

from baton.core.errors import (
    HandoffError,
    InvalidRequestError,
)
from baton.core.handoff import SourceOutput
from baton.core.request import FinishReason
from baton.core.settings import TransferSettings
from fakes.link import Link
from fakes.transfer import Handoff, hashes_of
from fakes.until import until
from fakes.worker_pair import nothing_left, workers

# --- the protocol when all goes well ---


async def test_sequence_moves_with_its_blocks() -> None:
    async with workers() as (source, target):
        handoff = Handoff(source, target).run()
        await until(lambda: handoff.ended)
        ids = list(target.host.adopted_blocks[handoff.target_key])
        assert (target.arena.view[ids] == source.arena.view[list(handoff.ids)]).all()
        assert target.host.adopted[handoff.target_key] == {0: SourceOutput((7,), None)}
        assert source.host.released == source.host.grants == [handoff.source_key]
        timing = source.host.handed[handoff.source_key]
        assert timing.num_bytes == handoff.num_blocks * source.arena.block_bytes
        assert nothing_left(source, target)


async def test_many_at_once_share_one_stream() -> None:
    async with workers(num_blocks=256) as (source, target):
        link = await Link(target.port).open()
        target.ref.address = f"127.0.0.1:{link.port}"
        handoffs = [Handoff(source, target, n).submit() for n in range(50)]
        for handoff in handoffs:
            # One after another uses the same source blocks, so each must be through first.
            handoff.offer().compute()
            await until(lambda handoff=handoff: handoff.ended)
        assert len(target.host.adopted) == 50 and nothing_left(source, target)
        assert link.num_connections == 1
        await link.close()


async def test_both_directions_use_the_stream_that_is_there() -> None:
    async with workers() as (a, b):
        first = Handoff(a, b, 1).run()
        await until(lambda: first.ended)
        # An address that nobody listens on: only the stream from before can carry this.
        a.ref.address = "127.0.0.1:1"
        back = Handoff(b, a, 2).run()
        await until(lambda: back.ended)
        assert back.target_key in a.host.adopted


async def test_choices_that_ended_are_reported_beside_those_that_go_on() -> None:
    async with workers() as (source, target):
        outputs = {
            0: SourceOutput((7,), FinishReason.STOP),
            1: SourceOutput((8,), None),
            2: SourceOutput((9,), FinishReason.LENGTH),
        }
        handoff = Handoff(source, target, choices=3).submit().offer().compute(outputs=outputs)
        await until(lambda: handoff.ended)
        assert target.host.adopted[handoff.target_key] == outputs


async def test_withdrawn_when_every_choice_ended_at_once() -> None:
    async with workers() as (source, target):
        ended = {0: SourceOutput((7,), FinishReason.STOP)}
        handoff = Handoff(source, target).submit().offer().compute(outputs=ended)
        await until(lambda: handoff.ended)
        assert not target.host.adopted and not target.host.failures
        assert nothing_left(source, target)


async def test_blocks_that_the_target_holds_are_not_sent() -> None:
    async with workers() as (source, target):
        handoff = Handoff(source, target).submit()
        for index, block_hash in enumerate(hashes_of(handoff.request)):
            target.host.cache[block_hash] = 10 + index
            target.host.free.discard(10 + index)
        handoff.offer().compute()
        await until(lambda: handoff.ended)
        # Two full blocks were there; the partial tail came.
        assert len(target.host.adopted_blocks[handoff.target_key]) == 1
        timing = source.host.handed[handoff.source_key]
        assert timing.num_bytes == source.arena.block_bytes


async def test_offer_may_come_before_the_submission() -> None:
    async with workers() as (source, target):
        handoff = Handoff(source, target).submit(target=False).offer().compute()
        await until(lambda: len(target.handoffs._parking) == 1)
        handoff.submit(source=False)
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted


async def test_withdrawal_that_overtook_the_submission_is_remembered() -> None:
    async with workers() as (source, target):
        ended = {0: SourceOutput((7,), FinishReason.STOP)}
        handoff = Handoff(source, target).submit(target=False).offer().compute(outputs=ended)
        await until(lambda: handoff.source_key in source.host.handed)
        await until(lambda: len(target.handoffs._parking) == 1)
        handoff.submit(source=False)
        await until(lambda: handoff.ended)
        assert not target.host.failures


# --- room ---


async def test_offers_wait_for_room_in_their_order() -> None:
    async with workers(num_blocks=4) as (source, target):
        first = Handoff(source, target, 0).run()
        await until(lambda: first.ended)
        # Three blocks are held; the large one waits, and the small one does not pass it.
        large = Handoff(source, target, 1, num_tokens=8).run()
        await until(lambda: len(target.handoffs._effects.queue) == 1)
        small = Handoff(source, target, 2, num_tokens=3).run()
        await until(lambda: len(target.handoffs._effects.queue) == 2)
        assert target.host.free == {3}
        target.host.finish(first.target_key)
        target.handoffs.room_freed()
        await until(lambda: large.ended and small.ended)
        assert list(target.host.adopted) == [h.target_key for h in (first, large, small)]


async def test_who_gives_up_waiting_makes_way_for_the_next() -> None:
    async with workers(num_blocks=4) as (source, target):
        first = Handoff(source, target, 0).run()
        await until(lambda: first.ended)
        large = Handoff(source, target, 1).run()
        await until(lambda: len(target.handoffs._effects.queue) == 1)
        small = Handoff(source, target, 2, num_tokens=3).run()
        await until(lambda: len(target.handoffs._effects.queue) == 2)
        target.handoffs.cancel(large.target_key, "client gone")
        await until(lambda: small.ended)
        assert small.target_key in target.host.adopted


async def test_no_room_within_the_wait_is_overload() -> None:
    settings = TransferSettings(grant_wait_s=0.2)
    async with workers(num_blocks=3, settings=settings) as (source, target):
        first = Handoff(source, target, 0).run()
        await until(lambda: first.ended)
        second = Handoff(source, target, 1).run()
        await until(lambda: second.ended)
        assert all(error.retryable for error in second.failures())
        assert nothing_left(source, target)


async def test_prompt_that_never_fits_is_the_requests_fault() -> None:
    async with workers(num_blocks=2) as (source, target):
        handoff = Handoff(source, target).run()
        await until(lambda: handoff.ended)
        for error in handoff.failures():
            assert isinstance(error, InvalidRequestError) and "never fit" in error.message


# --- writes that go wrong ---


async def test_failed_write_is_sent_again_once() -> None:
    async with workers() as (source, target):
        source.transport.faults.fail = 1
        handoff = Handoff(source, target).run()
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted


async def test_writes_that_keep_failing_end_the_handoff_with_all_blocks_free() -> None:
    async with workers() as (source, target):
        source.transport.faults.fail = 2
        handoff = Handoff(source, target).run()
        await until(lambda: handoff.ended)
        assert all(isinstance(error, HandoffError) for error in handoff.failures())
        assert nothing_left(source, target)


async def test_corrupt_write_is_detected() -> None:
    async with workers() as (source, target):
        source.transport.faults.corrupt = 1
        handoff = Handoff(source, target).run()
        await until(lambda: handoff.ended)
        for error in handoff.failures():
            assert "checksum_mismatch" in error.message and error.retryable
        assert not target.host.adopted and nothing_left(source, target)


async def test_duplicated_write_before_the_commit_does_no_harm() -> None:
    async with workers() as (source, target):
        source.transport.faults.duplicate = 1
        handoff = Handoff(source, target).submit().offer().compute(0, 2)
        await until(lambda: source.transport.num_held)
        source.transport.release_held()
        handoff.compute(2)
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted


async def test_blocks_stay_apart_until_the_hanging_write_has_landed() -> None:
    async with workers() as (source, target):
        source.transport.faults.hold = 1
        handoff = Handoff(source, target).run()
        await until(lambda: source.transport.num_held)
        source.transport.time_out_held()
        await until(lambda: handoff.ended)
        assert len(target.host.quarantined[handoff.target_key]) == handoff.num_blocks
        assert target.handoffs.num_quarantined_blocks == handoff.num_blocks
        # Another handoff gets other blocks.
        other = Handoff(source, target, 1).run()
        await until(lambda: other.ended)
        apart = set(target.host.quarantined[handoff.target_key])
        assert not apart & set(target.host.adopted_blocks[other.target_key])
        source.transport.release_held()
        await until(lambda: nothing_left(source, target))
        assert target.handoffs.num_quarantined_blocks == 0


async def test_cancelled_while_a_write_is_in_flight() -> None:
    async with workers() as (source, target):
        source.transport.faults.hold = 1
        handoff = Handoff(source, target).run()
        await until(lambda: source.transport.num_held)
        target.handoffs.cancel(handoff.target_key, "client gone")
        source.handoffs.cancel(handoff.source_key, "client gone")
        assert target.host.quarantined and not source.host.released
        source.transport.release_held()
        await until(lambda: nothing_left(source, target))
        assert source.host.released == [handoff.source_key]
        assert not (source.host.failures or target.host.failures)
