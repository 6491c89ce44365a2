"""A worker that leaves: its loop still has work in its inbox, and none of it is done any more."""

from __future__ import annotations

import asyncio

import pytest

from baton.transfer import verifier
from baton.transfer.links import Message
from baton.transfer.peers import Peer
from fakes.transfer import FakeWorker, Handoff
from fakes.until import until


async def test_a_commit_that_comes_after_the_close_is_not_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever is to be checked goes to the pool, as larger handoffs do.
    monkeypatch.setattr(verifier, "INLINE_BYTES", -1)
    loop_errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
    source, target = await FakeWorker("s").start(), await FakeWorker("t").start()
    came: list[str | None] = []
    receive = target.handoffs.on_peer_message

    def note(peer: Peer, message: Message) -> None:
        came.append(message.WhichOneof("body"))
        receive(peer, message)

    monkeypatch.setattr(target.handoffs, "on_peer_message", note)
    handoff = Handoff(source, target).submit().offer()
    await until(lambda: handoff.source_key in source.host.grants)
    target.handoffs.close()
    handoff.compute()
    await until(lambda: "commit" in came)
    await asyncio.sleep(0)
    assert not loop_errors
    assert handoff.target_key not in target.host.adopted
    for worker in (source, target):
        await worker.stop()
