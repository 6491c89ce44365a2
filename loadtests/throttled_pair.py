"""A prefill and a decode worker in this process, joined by a throttled in-process transport.

Real engine loops over mock runners, real handoffs over gRPC; only the wire is slow, on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from baton.core.handoff import Key
from baton.core.kv import kv_digest
from baton.core.request import Request, SamplingParams
from baton.core.settings import EngineSettings, TransferSettings
from baton.engine.engine import Engine
from baton.engine.mock import MockRunner
from baton.engine.outputs import EngineLoad, StepOutput
from baton.transfer.handoffs import Handoffs
from baton.transfer.inproc import InprocTransport
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import HANDOFF_ID_BYTES, submit_from_request
from baton.wire.streams.methods import HANDOFF
from baton.wire.streams.server import StreamServer
from baton.worker.engine_loop import EngineLoop

TOKEN = "bench"
HandoffRole = session_pb2.HandoffRole


class Side:
    """One worker without sessions and lease."""

    def __init__(self, name: str, epoch: int, engine: EngineSettings, bytes_per_s: float) -> None:
        self.name, self.epoch = name, epoch
        self._settings = engine
        self.transport = InprocTransport(name)
        self.transport.faults.bytes_per_s = bytes_per_s
        self.timings: asyncio.Queue[session_pb2.HandoffTiming] = asyncio.Queue()

    async def start(self, transfer: TransferSettings) -> None:
        runner = MockRunner(self._settings)
        digest = kv_digest(runner.identity, runner.groups, runner.rope)
        engine = Engine(self._settings, runner, digest, layer_groups=transfer.layer_groups)
        arenas = runner.arenas()
        self.transport.register(arenas)
        self._server = StreamServer("127.0.0.1", 0, TOKEN)
        self.ref = common_pb2.WorkerRef(
            worker_id=self.name, epoch=self.epoch, address=self._server.address
        )
        self._async = asyncio.get_running_loop()
        self.loop = EngineLoop(engine, self._publish, _die, _die, transfer.max_growth_tokens)
        self._handoffs = Handoffs(
            self.ref,
            digest,
            self.transport,
            arenas,
            runner.groups,
            self.loop.host,
            self.loop.post,
            self._async,
            TOKEN,
            transfer,
            fetch_host=self.loop.fetch_host,
        )
        self.loop.attach(self._handoffs)
        self._server.add(HANDOFF, self._handoffs.serve)
        await self._server.start()
        self.loop.start()

    async def stop(self) -> None:
        self.loop.stop()
        await asyncio.to_thread(self.loop.join)
        self._handoffs.close()
        await self._server.stop(0)
        self.transport.close()

    def _publish(
        self,
        output: StepOutput,
        events: Sequence[tuple[Key, session_pb2.SlotEvent]],
        load: EngineLoad,
    ) -> None:
        for _, event in events:
            if event.kind == session_pb2.SlotEvent.KIND_FAILED:
                raise RuntimeError(f"{self.name}: {event.message}")
            if event.kind == session_pb2.SlotEvent.KIND_HANDED_OFF:
                self._async.call_soon_threadsafe(self.timings.put_nowait, event.handoff)


class Pair:
    """Hands one prompt after another from `source` to `target`."""

    def __init__(self, source: Side, target: Side) -> None:
        self._source, self._target = source, target
        self._num = 0

    async def hand_over(self, prompt: Sequence[int]) -> session_pb2.HandoffTiming:
        """What the source measured."""
        self._num += 1
        now = time.monotonic()
        request = Request(
            request_id=str(self._num),
            model="mock",
            prompt=tuple(prompt),
            sampling=SamplingParams(max_tokens=2, ignore_eos=True),
            seed=0,
            deadline=now + 300,
            outputs={0: ()},
        )
        for side, role, peer in (
            (self._target, HandoffRole.SIDE_TARGET, self._source),
            (self._source, HandoffRole.SIDE_SOURCE, self._target),
        ):
            handoff = HandoffRole(
                side=role,
                handoff_id=self._num.to_bytes(HANDOFF_ID_BYTES, "big"),
                peer=peer.ref,
            )
            submit = submit_from_request(request, attempt=1, now=now)
            submit.slot = self._num
            submit.handoff.CopyFrom(handoff)
            loop, key = side.loop, (side.name, self._num)
            loop.post(lambda loop=loop, key=key, submit=submit: loop.submit(key, submit))  # type: ignore[misc]
        async with asyncio.timeout(120):
            return await self._source.timings.get()


@contextlib.asynccontextmanager
async def throttled_pair(
    engine: EngineSettings, *, layer_groups: int, bytes_per_s: float
) -> AsyncIterator[Pair]:
    transfer = TransferSettings(transport="inproc", layer_groups=layer_groups)
    source = Side(f"bench-source-{layer_groups}", 1, engine, bytes_per_s)
    target = Side(f"bench-target-{layer_groups}", 2, engine, bytes_per_s)
    await source.start(transfer)
    await target.start(transfer)
    try:
        yield Pair(source, target)
    finally:
        await source.stop()
        await target.stop()


def _die(error: BaseException | None = None) -> None:
    raise SystemExit(f"an engine loop died: {error}")
