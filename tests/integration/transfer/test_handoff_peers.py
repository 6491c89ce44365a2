"""Handoffs of two workers over real streams: quarantine, deadlines, streams, and strange peers."""

from __future__ import annotations

import asyncio

import pytest

from baton.core.errors import (
    DeadlineExceededError,
    HandoffError,
    InvalidRequestError,
    OverloadedError,
)
from baton.core.settings import TransferSettings
from baton.transfer import entries
from baton.transfer.messages import offer_body
from baton.transfer.state import Due
from baton.v1 import transfer_pb2 as pb
from baton.wire.streams.status import Code, StreamError
from fakes.link import Link
from fakes.transfer import FakeWorker, Handoff, due_of
from fakes.until import until
from fakes.worker_pair import RawPeer, nothing_left, workers

# --- quarantine ---


async def test_quarantine_past_its_cap_recreates_the_transport() -> None:
    settings = TransferSettings(max_quarantined_share=0.1, quarantine_wait_s=0.2)
    async with workers(settings=settings) as (source, target):
        source.transport.faults.hold = 1
        handoff = Handoff(source, target).run()
        await until(lambda: source.transport.num_held)
        before = target.transport.agent_name
        target.handoffs.cancel(handoff.target_key, "client gone")
        await until(lambda: not target.host.quarantined)
        assert target.transport.agent_name != before and not target.handoffs.must_restart
        # What was under way finds no agent to land with, and the next handoff finds the new one.
        target.arena.view[:] = 0
        source.transport.release_held()
        assert not target.arena.view.any()
        other = Handoff(source, target, 1).run()
        await until(lambda: other.ended)
        assert other.target_key in target.host.adopted
        assert nothing_left(source, target)


async def test_quarantine_past_its_cap_waits_for_proof_that_its_writer_is_dead() -> None:
    settings = TransferSettings(max_quarantined_share=0.1)
    async with workers(settings=settings) as (source, target):
        target.transport.recreate_fences_node = False
        source.transport.faults.hold = 1
        handoff = Handoff(source, target).run()
        await until(lambda: source.transport.num_held)
        target.handoffs.cancel(handoff.target_key, "client gone")
        await until(lambda: target.host.quarantined)
        # Several looks later, as many as the proof may take.
        await asyncio.sleep(0.3)
        assert not target.handoffs.must_restart
        target.handoffs.peer_dead(source.name, source.epoch)
        await until(lambda: not target.host.quarantined)


async def test_recreating_does_not_free_what_a_local_peer_writes_by_itself() -> None:
    settings = TransferSettings(max_quarantined_share=0.1, quarantine_wait_s=0.2)
    async with workers(settings=settings) as (source, target):
        target.transport.recreate_fences_node = False
        source.transport.faults.hold = 1
        handoff = Handoff(source, target).run()
        await until(lambda: source.transport.num_held)
        before = target.transport.agent_name
        target.handoffs.cancel(handoff.target_key, "client gone")
        await until(lambda: target.handoffs.must_restart)
        assert target.host.quarantined and target.transport.agent_name == before
        # The source's word frees them all the same.
        source.transport.release_held()
        await until(lambda: nothing_left(source, target))
        await until(lambda: not target.handoffs.must_restart)


async def test_source_forgets_a_write_that_hangs_once_its_target_has_a_new_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entries, "REMEMBER_S", 0.2)
    settings = TransferSettings(
        max_quarantined_share=0.1, quarantine_wait_s=0.2, write_wait_s=0.2, commit_wait_s=1
    )
    async with workers(settings=settings) as (source, target):
        source.transport.faults.drop = 1
        handoff = Handoff(source, target).run()
        await until(lambda: target.host.reserved)
        before = target.transport.agent_name
        target.handoffs.cancel(handoff.target_key, "client gone")
        await until(lambda: target.transport.agent_name != before)
        await until(lambda: not source.handoffs._entries.all())
        assert nothing_left(source, target)


async def test_peer_that_is_declared_dead_can_land_nothing_more() -> None:
    async with workers() as (source, target):
        source.transport.faults.drop = 1
        handoff = Handoff(source, target).run()
        await until(lambda: target.host.reserved)
        target.handoffs.peer_dead(source.name, source.epoch)
        assert target.host.failures[handoff.target_key].retryable
        await until(lambda: nothing_left(target))


async def test_new_epoch_of_the_same_worker_proves_the_old_one_dead() -> None:
    async with workers() as (source, target):
        source.transport.faults.drop = 1
        Handoff(source, target).run()
        await until(lambda: target.host.reserved)
        reborn = await FakeWorker(source.name, epoch=source.epoch + 1).start()
        handoff = Handoff(reborn, target, 1).run()
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted
        await until(lambda: nothing_left(target))
        await reborn.stop()


# --- deadlines ---


async def test_target_without_an_offer_gives_up() -> None:
    async with workers(settings=TransferSettings(offer_wait_s=0.1)) as (source, target):
        handoff = Handoff(source, target).submit(source=False)
        await until(lambda: handoff.target_key in target.host.failures)
        assert "offered nothing" in target.host.failures[handoff.target_key].message


async def test_offer_without_a_submission_is_refused() -> None:
    async with workers(settings=TransferSettings(offer_wait_s=0.1)) as (source, target):
        handoff = Handoff(source, target).submit(target=False).offer()
        await until(lambda: handoff.source_key in source.host.failures)
        assert "unknown" in source.host.failures[handoff.source_key].message
        assert source.host.failures[handoff.source_key].retryable


async def test_requests_deadline_ends_both_sides() -> None:
    async with workers() as (source, target):
        now = asyncio.get_running_loop().time()
        handoff = Handoff(source, target, deadline=now + 0.3).submit().offer()
        await until(lambda: handoff.ended)
        assert any(isinstance(e, DeadlineExceededError) for e in handoff.failures())
        await until(lambda: nothing_left(source, target))


async def test_source_at_work_outlasts_the_targets_patience() -> None:
    # Long enough that a machine which does other things for a second hides no sign of the source.
    async with workers(settings=TransferSettings(commit_wait_s=3.0)) as (source, target):
        handoff = Handoff(source, target).submit().offer().compute(0, 1)
        await until(lambda: target.host.reserved)
        await asyncio.sleep(4.0)
        handoff.compute(1)
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted


async def test_idle_worker_has_no_deadline() -> None:
    async with workers() as (source, target):
        assert source.handoffs.next_deadline() is None
        handoff = Handoff(source, target).submit()
        assert source.handoffs.next_deadline() is not None
        handoff.offer().compute()
        await until(lambda: handoff.ended)
        assert source.handoffs.next_deadline() is None
        assert target.handoffs.next_deadline() is None


# --- streams ---


async def test_refused_connection_fails_at_once() -> None:
    async with workers() as (source, target):
        await target.server.stop(0)
        handoff = Handoff(source, target).submit(target=False)
        await until(lambda: source.host.failures, 5)
        error = source.host.failures[handoff.source_key]
        assert isinstance(error, HandoffError) and error.retryable
        assert "cannot be reached" in error.message


async def test_workers_of_different_digests_say_why_they_do_not_pair() -> None:
    async with workers(digest="f" * 32) as (source, target):
        handoff = Handoff(source, target).submit(target=False)
        await until(lambda: source.host.failures)
        message = source.host.failures[handoff.source_key].message
        assert "digest" in message and "f" * 32 in message


async def test_stranger_is_told_about_the_token() -> None:
    async with workers(token="another") as (source, target):
        handoff = Handoff(source, target).submit(target=False)
        await until(lambda: source.host.failures)
        assert "token" in source.host.failures[handoff.source_key].message


async def test_broken_stream_comes_back_and_the_handoff_goes_on() -> None:
    async with workers() as (source, target):
        link = await Link(target.port).open()
        target.ref.address = f"127.0.0.1:{link.port}"
        handoff = Handoff(source, target).submit().offer().compute(0, 1)
        await until(lambda: target.host.reserved)
        link.cut()
        handoff.compute(1)
        await until(lambda: handoff.ended)
        assert handoff.target_key in target.host.adopted
        assert link.num_connections >= 2
        await link.close()


async def test_verdict_that_was_lost_is_asked_for_again() -> None:
    async with workers() as (source, target):
        link = await Link(target.port).open()
        target.ref.address = f"127.0.0.1:{link.port}"
        handoff = Handoff(source, target).submit().offer().compute(0, 2)
        await until(lambda: source.host.grants)
        link.swallow_answers = True
        handoff.compute(2)
        await until(lambda: handoff.target_key in target.host.handed)
        assert handoff.source_key not in source.host.handed
        link.swallow_answers = False
        link.cut()
        await until(lambda: handoff.ended)
        assert not source.host.failures
        await link.close()


async def test_lost_source_leaves_its_blocks_in_quarantine_until_it_speaks() -> None:
    async with workers() as (source, target):
        link = await Link(target.port).open()
        target.ref.address = f"127.0.0.1:{link.port}"
        handoff = Handoff(source, target).submit().offer().compute(0, 1)
        await until(lambda: target.host.reserved)
        # From now on nothing can connect; this process is alive, so it is lost but not dead.
        await link.close()
        await until(lambda: handoff.ended)
        assert target.host.quarantined and not target.host.adopted
        target.ref.address = f"127.0.0.1:{target.port}"
        again = Handoff(source, target, 1).run()
        await until(lambda: again.ended)
        assert again.target_key in target.host.adopted
        await until(lambda: nothing_left(source, target))


# --- peers that say the wrong thing ---


async def test_unknown_handoffs_are_answered_and_forgotten() -> None:
    async with workers() as (stranger, target), RawPeer(stranger, target) as peer:
        assert (await peer.hear()).hello.worker.worker_id == target.name
        for body, answer in (
            ({"status": pb.Status()}, "rejected"),
            ({"commit": pb.Commit()}, "rejected"),
        ):
            await peer.say(peer.message(**body))
            assert (await peer.hear()).WhichOneof("body") == answer
        # Who has no record of a handoff has no write of it in flight.
        for body, answer in (
            ({"cancel": pb.CancelHandoff()}, "quiesced"),
            ({"rejected": pb.Rejected()}, "quiesced"),
            ({"grant": pb.Grant()}, "fail"),
            # It has nothing cached.
            ({"fetch": pb.Fetch(hashes=b"h" * 16)}, "withdraw"),
        ):
            await peer.say(peer.message(as_source=False, **body))
            heard = await peer.hear()
            assert heard.WhichOneof("body") == answer
            assert answer != "fail" or heard.fail.quiesced


async def test_messages_of_another_life_or_attempt_are_ignored() -> None:
    async with workers() as (source, target), RawPeer(source, target) as peer:
        await peer.hear()
        handoff = Handoff(source, target).submit(source=False)
        good = peer.message(withdraw=pb.Withdraw())
        good.handoff_id = handoff.handoff_id
        for field, value in (
            ("attempt", 2),
            ("source_epoch", good.source_epoch + 1),
            ("target_epoch", good.target_epoch + 1),
        ):
            stale = pb.HandoffMessage()
            stale.CopyFrom(good)
            setattr(stale, field, value)
            await peer.say(stale)
        # Answered after the stale ones were read.
        await peer.say(peer.message(status=pb.Status()))
        await peer.hear()
        assert handoff.target_key not in target.host.handed
        await peer.say(good)
        await until(lambda: handoff.target_key in target.host.handed)


async def test_another_worker_cannot_speak_for_the_source() -> None:
    async with workers() as (source, target):
        handoff = Handoff(source, target).submit(source=False)
        thief = await FakeWorker("thief").start()
        async with RawPeer(thief, target) as peer:
            await peer.hear()
            stolen = peer.message(withdraw=pb.Withdraw())
            stolen.handoff_id = handoff.handoff_id
            stolen.source_epoch = source.epoch
            await peer.say(stolen)
            await peer.say(peer.message(status=pb.Status()))
            await peer.hear()
            assert handoff.target_key not in target.host.handed
        await thief.stop()


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"protocol_min": 9, "protocol_max": 9}, "speaks handoff protocol 9"),
        ({"digest": "other"}, "KV digest other"),
    ],
)
async def test_hello_that_does_not_fit_is_refused_with_its_reason(
    hello: dict[str, object], words: str
) -> None:
    async with workers() as (source, target), RawPeer(source, target, **hello) as peer:
        with pytest.raises(StreamError) as caught:
            await peer.hear()
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert words in caught.value.details


async def test_stream_must_begin_with_hello() -> None:
    async with workers() as (source, target):
        peer = RawPeer(source, target)
        peer._hello = peer.message(status=pb.Status())
        async with peer:
            with pytest.raises(StreamError, match="must be Hello"):
                await peer.hear()


async def test_same_handoff_cannot_be_started_twice() -> None:
    async with workers() as (source, target):
        handoff = Handoff(source, target).submit()
        with pytest.raises(InvalidRequestError, match="started already"):
            handoff.submit(source=False)


async def test_overload_keeps_its_name_across_the_wire() -> None:
    async with workers() as (source, target), RawPeer(source, target) as peer:
        await peer.hear()
        target.host.free.clear()
        waiting = Handoff(source, target, 1).submit(source=False)
        due = due_of(waiting.source_key, waiting.request)
        offer = peer.message(
            offer=offer_body(Due(due.num_tokens, due.hashes, due.num_blocks), {0}, 0.05)
        )
        offer.handoff_id = waiting.handoff_id
        await peer.say(offer)
        await until(lambda: target.host.failures)
        assert isinstance(target.host.failures[waiting.target_key], OverloadedError)
        rejected = (await peer.hear()).rejected
        assert rejected.code == OverloadedError.code
