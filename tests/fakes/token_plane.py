"""A whole token plane in one event loop: fleet, router and dispatcher against fake workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from baton.core.request import Request, SamplingParams
from baton.core.settings import GatewaySettings
from baton.gateway.dispatch import Dispatcher
from baton.gateway.running import Running
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.prefix_lookup import PrefixLookup
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.telemetry.metrics import Metrics
from fakes.memory_store import MemoryStore
from fakes.sink import RecordingSink
from fakes.worker import MODEL, TOKEN, FakeWorker

_ids = itertools.count(1)


def make_request(
    seed: int = 1,
    *,
    max_tokens: int = 8,
    n: int = 1,
    prompt_tokens: int = 20,
    deadline_s: float = 60.0,
    model: str = MODEL,
    priority: int = 0,
    tenant: str = "",
) -> Request:
    return Request(
        request_id=f"request-{next(_ids)}",
        model=model,
        prompt=tuple(range(1, prompt_tokens + 1)),
        sampling=SamplingParams(max_tokens=max_tokens),
        seed=seed,
        deadline=time.monotonic() + deadline_s,
        outputs=dict.fromkeys(range(n), ()),
        priority=priority,
        tenant=tenant,
    )


class TokenPlane:
    """`async with TokenPlane(FakeWorker(...), ...) as plane`: everything is up inside."""

    def __init__(
        self,
        *workers: FakeWorker,
        policy: str = "least_loaded",
        models: tuple[str, ...] = (MODEL,),
        prefixes: Callable[[Pool], PrefixLookup] | None = None,
        tokenizer: str = "",
        **settings: Any,
    ) -> None:
        self.workers = list(workers)
        self.settings = GatewaySettings(**settings)
        self.metrics = Metrics()
        self.store = MemoryStore()
        self.pool = Pool()
        self.fleet = Fleet(
            self.store, self.pool, TOKEN, self.settings, self.metrics, tokenizer=tokenizer
        )
        self.dispatcher = Dispatcher(
            self.fleet,
            policy_named(policy),
            self.settings,
            self.metrics,
            models,
            seed=7,
            prefixes=prefixes(self.pool) if prefixes is not None else None,
        )

    async def __aenter__(self) -> TokenPlane:
        self.fleet.start()
        for worker in self.workers:
            await worker.start()
            await self.register(worker)
        await self.until(lambda: len(self.up()) == len(self.workers))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.dispatcher.finish(0)
        await self.fleet.close()
        for worker in self.workers:
            await worker.stop()
        await self.store.close()

    async def register(self, worker: FakeWorker) -> None:
        await self.store.put(worker.lease_key, worker.lease.SerializeToString())

    async def add(self, worker: FakeWorker) -> FakeWorker:
        """Start another worker and wait until it is up."""
        self.workers.append(worker)
        await worker.start()
        await self.register(worker)
        await self.until(lambda: worker.worker_id in self.up())
        return worker

    def up(self) -> list[str]:
        return [w["id"] for w in self.fleet.workers() if w["state"] in ("ready", "foreign")]

    def state(self, worker: FakeWorker) -> str | None:
        states = {w["id"]: w["state"] for w in self.fleet.workers()}
        return states.get(worker.worker_id)

    async def until(self, condition: Any) -> None:
        """Wait for something to become true; the test's own timeout bounds it."""
        while not condition():  # noqa: ASYNC110 - it may be about anything
            await asyncio.sleep(0.002)

    def submit(
        self, request: Request | None = None, sink: RecordingSink | None = None, **kw: Any
    ) -> tuple[RecordingSink, Running]:
        sink = sink or RecordingSink()
        return sink, self.dispatcher.submit(request or make_request(**kw), sink)

    @property
    def num_running(self) -> int:
        """Requests that have not ended, waiting ones included."""
        return len(self.dispatcher._running)

    @property
    def num_waiting(self) -> int:
        return len(self.dispatcher._waiting)

    def assert_nothing_left(self) -> None:
        """No request is anywhere in the gateway."""
        columns = self.pool.columns
        assert self.num_running == self.num_waiting == 0
        for name in ("inflight", "booked_blocks"):
            assert not getattr(columns, name).any(), f"{name} did not return to zero"
        for row in columns.used.nonzero()[0]:
            assert self.fleet.session(int(row)).num_slots == 0
