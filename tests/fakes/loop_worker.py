"""A worker without sessions and lease: a real engine loop over the mock runner, real handoffs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from baton.core.handoff import Key
from baton.core.kv import kv_digest
from baton.core.request import Request
from baton.core.settings import EngineSettings, TransferSettings
from baton.engine.engine import Engine
from baton.engine.mock import MockRunner
from baton.engine.outputs import EngineLoad, StepOutput
from baton.transfer.handoffs import Handoffs
from baton.transfer.inproc import InprocTransport
from baton.v1 import common_pb2, session_pb2
from baton.wire.request import submit_from_request
from baton.wire.streams.methods import HANDOFF, KV_EVENTS
from baton.wire.streams.server import StreamServer
from baton.worker.engine_loop import EngineLoop
from baton.worker.events import EventLog

TOKEN = "loop-worker"
_epochs = itertools.count(1)


class LoopWorker:
    """Collects what its loop publishes; `news` is set whenever there is something."""

    def __init__(
        self,
        name: str,
        transfer: TransferSettings,
        block_sizes: Sequence[int],
        kv_blocks: int,
        event_log: Callable[[int], EventLog] = EventLog,
    ) -> None:
        self.name, self.epoch = name, next(_epochs)
        self._transfer = transfer
        settings = EngineSettings(
            kind="mock",
            block_size=block_sizes[0],
            kv_blocks=kv_blocks,
            mock_prefill_us_per_token=0,
            mock_step_ms=0.1,
        )
        self.runner = MockRunner(settings, block_sizes=block_sizes)
        self.digest = kv_digest(self.runner.identity, self.runner.groups, self.runner.rope)
        self.engine = Engine(settings, self.runner, self.digest)
        self.transport = InprocTransport(f"{name}-{self.epoch}")
        self.tokens: dict[Key, list[int]] = defaultdict(list)
        self.finished: set[Key] = set()
        self.failures: dict[Key, str] = {}
        self.cached: dict[Key, int] = {}
        self.died: list[BaseException] = []
        self.events = event_log(self.epoch)
        self.news = asyncio.Event()

    async def start(self) -> LoopWorker:
        arenas = self.runner.arenas()
        self.transport.register(arenas)
        self._server = StreamServer("127.0.0.1", 0, TOKEN)
        self.ref = common_pb2.WorkerRef(
            worker_id=self.name, epoch=self.epoch, address=self._server.address
        )
        self._async = asyncio.get_running_loop()
        self.loop = EngineLoop(
            self.engine,
            self._publish,
            self.died.append,
            lambda: None,
            self._transfer.max_growth_tokens,
        )
        self.handoffs = Handoffs(
            self.ref,
            self.digest,
            self.transport,
            arenas,
            self.runner.groups,
            self.loop.host,
            self.loop.post,
            self._async,
            TOKEN,
            self._transfer,
            fetch_host=self.loop.fetch_host,
        )
        self.loop.attach(self.handoffs)
        self._server.add(HANDOFF, self.handoffs.serve)
        self._server.add(KV_EVENTS, self.events.serve)
        await self._server.start()
        self.loop.start()
        return self

    async def stop(self) -> None:
        self.loop.stop()
        await asyncio.to_thread(self.loop.join)
        self.handoffs.close()
        await self._server.stop(0)
        self.transport.close()
        assert not self.died

    def submit(self, number: int, request: Request, **fields: Any) -> Key:
        """As a gateway does; `fields` are those of Submit that a Request lacks."""
        key = (self.name, number)
        submit = submit_from_request(request, attempt=1, now=time.monotonic())
        submit.slot = number
        for name, value in fields.items():
            getattr(submit, name).CopyFrom(value)
        self.loop.post(lambda: self.loop.submit(key, submit))
        return key

    def prefetch(self, prefetch: session_pb2.Prefetch) -> None:
        self.loop.post(lambda: self.loop.prefetch(prefetch))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not await self.ask(condition):
                self.news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.news.wait(), 0.02)

    async def ask(self, question: Any) -> Any:
        """The answer of `question()`, asked on the engine's thread."""
        answer = self._async.create_future()

        def work() -> None:
            value = question()
            self._async.call_soon_threadsafe(answer.set_result, value)

        self.loop.post(work)
        return await answer

    async def generated(self, key: Key) -> list[int]:
        """All tokens of a submission."""
        await self.until(lambda: key in self.finished or key in self.failures)
        assert key not in self.failures, self.failures[key]
        return self.tokens[key]

    def is_whole(self) -> bool:
        """No block is lost, and none in use. On the engine's thread."""
        self.engine.check_integrity()
        load = self.engine.load()
        idle = load.free_blocks == self.runner.num_blocks[0] and not load.quarantined_blocks
        return idle and len(self.handoffs._entries.open) == 0

    def _publish(
        self,
        output: StepOutput,
        events: list[tuple[Key, session_pb2.SlotEvent]],
        load: EngineLoad,
    ) -> None:
        for row in output.rows:
            self.tokens[row.key].append(row.token)
            if row.finish is not None:
                self.finished.add(row.key)
        for key, event in events:
            if event.kind == session_pb2.SlotEvent.KIND_SCHEDULED:
                self.cached[key] = event.cached_tokens
            elif event.kind == session_pb2.SlotEvent.KIND_FAILED:
                self.failures[key] = event.message

        def tell() -> None:
            self.events.append(output.cache)
            self.news.set()

        self._async.call_soon_threadsafe(tell)


@contextlib.asynccontextmanager
async def loop_workers(
    *,
    num_workers: int = 2,
    block_sizes: Sequence[int] = (4,),
    kv_blocks: int = 64,
    event_log: Callable[[int], EventLog] = EventLog,
    **transfer: Any,
) -> AsyncIterator[list[LoopWorker]]:
    settings = TransferSettings(**{"transport": "inproc", **transfer})
    workers = [
        await LoopWorker(f"worker-{i}", settings, block_sizes, kv_blocks, event_log).start()
        for i in range(num_workers)
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.stop()
