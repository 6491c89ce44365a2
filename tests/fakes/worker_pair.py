"""Two workers with real ports, their memory in one process; and a peer without manners."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator

from baton.transfer.hello import Greeter
from baton.transfer.seal import seal
from baton.v1 import transfer_pb2 as pb
from baton.wire.streams.client import dial
from baton.wire.streams.methods import HANDOFF
from fakes.transfer import TOKEN, FakeWorker

_numbers = itertools.count()


@contextlib.asynccontextmanager
async def workers(**options: object) -> AsyncIterator[tuple[FakeWorker, FakeWorker]]:
    """A source and a target; `options` are the target's, `settings` are both's."""
    number = next(_numbers)
    settings = options.get("settings")
    source = await FakeWorker(f"prefill-{number}", settings=settings).start()
    target = await FakeWorker(f"decode-{number}", **options).start()
    try:
        yield source, target
    finally:
        await source.stop()
        await target.stop()


def nothing_left(*ends: FakeWorker) -> bool:
    """No open handoff, and every block that no adopted request holds is free."""
    return all(
        len(end.handoffs._entries.open) == 0
        and not end.host.reserved
        and not end.host.quarantined
        and len(end.host.free) + sum(map(len, end.host.adopted_blocks.values()))
        == end.host.num_blocks
        for end in ends
    )


class RawPeer:
    """A peer that says what it is told to."""

    def __init__(self, worker: FakeWorker, partner: FakeWorker, **hello: object) -> None:
        self.worker, self.partner = worker, partner
        greeter: Greeter = worker.handoffs._greeter
        self._hello = pb.HandoffMessage()
        self._hello.CopyFrom(greeter.message)
        for name, value in hello.items():
            setattr(self._hello.hello, name, value)

    async def __aenter__(self) -> RawPeer:
        self._dialled = dial(self.partner.ref.address, TOKEN, HANDOFF)
        self._stream = await self._dialled.__aenter__()
        await self.say(self._hello)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._dialled.__aexit__(None, None, None)

    async def say(self, message: pb.HandoffMessage) -> None:
        if message.WhichOneof("body") != "hello":
            seal(message)
        self._stream.send(pb.HandoffRequest(message=message))

    async def hear(self) -> pb.HandoffMessage:
        said = await self._stream.read()
        assert said is not None, "the partner closed the stream"
        return said.message

    def message(self, *, as_source: bool = True, **body: object) -> pb.HandoffMessage:
        mine, theirs = self.worker.epoch, self.partner.epoch
        epochs = (mine, theirs) if as_source else (theirs, mine)
        return pb.HandoffMessage(
            handoff_id=b"u" * 16,
            attempt=1,
            source_epoch=epochs[0],
            target_epoch=epochs[1],
            **body,
        )
