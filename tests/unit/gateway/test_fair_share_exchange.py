"""Fair share over gateways: sums in the store, and what follows from them in another gateway."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from baton.core.queue_policy.vtc import INPUT_WEIGHT, OUTPUT_WEIGHT, Vtc
from baton.gateway.queue.fair_share import MAX_SHARES, FairShare, Share
from baton.gateway.queue.share_exchange import PREFIX, TTL_S, ShareExchange, parse, render
from baton.store.base import StoreUnavailableError
from fakes.clock import ManualClock
from fakes.memory_store import MemoryStore
from fakes.token_plane import TokenPlane
from fakes.worker import MODEL, FakeWorker

SHARE = Share("m", 0, "a")


class Gateway:
    """The part of a gateway that shares: one queue for each (model, class)."""

    def __init__(self, store: MemoryStore, clock: ManualClock) -> None:
        self.queues: dict[tuple[str, int], Vtc[object]] = {}
        self.shares = FairShare(self.queue, lambda running: running.request.priority)
        self.exchange = ShareExchange(store, self.shares, clock)

    def queue(self, model: str, priority: int) -> Vtc[object]:
        key = (model, priority)
        return self.queues.setdefault(key, Vtc(lambda _: "a", lambda _: 1.0))

    def serve(self, cost: float, share: Share = SHARE) -> None:
        """As if a request of this share had been served here."""
        self.queue(share.model, share.priority).charge(share.tenant, cost)
        served = dict(self.shares.served)
        self.shares._served.clear()
        self.shares._served.update(served | {share: served.get(share, 0.0) + cost})

    def counter(self, share: Share = SHARE) -> float:
        return self.queue(share.model, share.priority).counter(share.tenant)


async def exchange(*gateways: Gateway) -> None:
    for _ in range(2):
        for gateway in gateways:
            await gateway.exchange.exchange()


async def test_each_counts_what_all_have_served() -> None:
    store, clock = MemoryStore(), ManualClock()
    gateways = [Gateway(store, clock) for _ in range(3)]
    await exchange(*gateways)
    for number, gateway in enumerate(gateways):
        gateway.serve(100.0 * (number + 1))
        gateway.serve(7.0, Share("m", 1, "a"))
    await exchange(*gateways)
    await exchange(*gateways)
    for gateway in gateways:
        assert gateway.counter() == 600.0
        assert gateway.counter(Share("m", 1, "a")) == 21.0


async def test_what_came_before_one_was_known_does_not_count() -> None:
    store, clock = MemoryStore(), ManualClock()
    old = Gateway(store, clock)
    old.serve(1000.0)
    await exchange(old)
    new = Gateway(store, clock)
    await exchange(new, old)
    assert new.counter() == 0.0
    old.serve(5.0)
    await exchange(old, new)
    assert new.counter() == 5.0


async def test_outage_leaves_each_to_itself_and_is_forgotten_when_long() -> None:
    store, clock = MemoryStore(), ManualClock()
    one, two = Gateway(store, clock), Gateway(store, clock)
    await exchange(one, two)

    async def down(*_: object) -> None:
        raise StoreUnavailableError("down")

    put = store.put
    store.put = down  # type: ignore[method-assign]
    one.serve(50.0)
    with pytest.raises(StoreUnavailableError):
        await one.exchange.exchange()
    assert (one.counter(), two.counter()) == (50.0, 0.0)
    store.put = put  # type: ignore[method-assign]
    clock.advance(TTL_S / 2)
    await exchange(one, two)
    assert two.counter() == 50.0, "a short outage is made up for"
    one.serve(70.0)
    clock.advance(TTL_S + 1)
    await exchange(one, two)
    assert two.counter() == 50.0
    one.serve(1.0)
    await exchange(one, two)
    assert two.counter() == 51.0


async def test_a_gateway_that_is_gone_takes_nothing_back() -> None:
    store, clock = MemoryStore(), ManualClock()
    one, two = Gateway(store, clock), Gateway(store, clock)
    await exchange(one, two)
    one.serve(50.0)
    await exchange(one, two)
    for key in await store.list(PREFIX):
        store.expire(key)
    await two.exchange.exchange()
    assert two.counter() == 50.0


def test_documents_survive_the_way_and_nonsense_is_left_out() -> None:
    served = {Share("m", -1, "ten/ant"): 12.0, Share("m", 1, ""): 3.0}
    assert parse(render(served)) == served
    assert parse(b"") == parse(b"{") == parse(b"7") == {}
    assert parse(b'[["m",0,"a",-1],["m",0,"a"],[1,2,3,4],["m",0,"b",2]]') == {
        Share("m", 0, "b"): 2.0
    }
    assert len(render({Share("m", 0, "t" * 256 + str(i)): 1e12 for i in range(MAX_SHARES)})) < 2**20


async def test_a_tenant_served_at_one_gateway_waits_its_turn_at_the_other() -> None:
    """Two gateways, each with a worker of its own, share a store. Both tenants wait at the second;
    the first serves one of them meanwhile.
    """
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        planes = [
            await stack.enter_async_context(TokenPlane(FakeWorker(name, max_running=1)))
            for name in ("w1", "w2")
        ]
        first, second = planes
        exchanges = [ShareExchange(store, plane.dispatcher.shares) for plane in planes]
        (worker,) = second.workers
        worker.mute = True
        second.submit(seed=1000, max_tokens=1)
        await second.until(lambda: worker.jobs and not second.pool.columns.queue_room.any())
        for seed in range(4):
            second.submit(seed=seed, tenant="busy", prompt_tokens=50, max_tokens=1)
        for seed in range(100, 104):
            second.submit(seed=seed, tenant="other", prompt_tokens=50, max_tokens=1)
        for one in exchanges:
            await one.exchange()
        sink, _ = first.submit(tenant="busy", prompt_tokens=60, max_tokens=40)
        assert await sink.end() is None
        share = Share(MODEL, 0, "busy")
        cost = INPUT_WEIGHT * 60 + OUTPUT_WEIGHT * 40
        assert first.dispatcher.shares.served[share] == cost
        for one in exchanges:
            await one.exchange()
        worker.mute = False
        await second.until(lambda: not second.num_running)
        order = [submit.seed for submit in worker.submits[1:]]
        # 140 ahead, at 52 a request: three of the other come first.
        assert order[:3] == [100, 101, 102]
        assert sorted(order) == [0, 1, 2, 3, 100, 101, 102, 103]


async def test_replays_are_charged_once() -> None:
    async with TokenPlane(FakeWorker("a"), FakeWorker("b")) as plane:
        sink, _ = plane.submit(tenant="t", prompt_tokens=30, max_tokens=200)
        await sink.wait_tokens(10)
        next(w for w in plane.workers if w.jobs).fail_all(StoreUnavailableError("any"))
        assert await sink.end() is None
        served = plane.dispatcher.shares.served[Share(MODEL, 0, "t")]
        assert served == INPUT_WEIGHT * 30 + OUTPUT_WEIGHT * 200


async def test_output_of_every_choice_counts_also_of_those_cut_off() -> None:
    async with TokenPlane(FakeWorker("a")) as plane:
        sink, ticket = plane.submit(tenant="t", prompt_tokens=10, n=3, max_tokens=50)
        assert await sink.end() is None
        share = Share(MODEL, 0, "t")
        assert plane.dispatcher.shares.served[share] == INPUT_WEIGHT * 10 + OUTPUT_WEIGHT * 150
        sink, ticket = plane.submit(tenant="u", prompt_tokens=10, max_tokens=100_000)
        await sink.wait_tokens(20)
        ticket.cancel("gone")
        num_tokens = len(sink.tokens[0])
        served = plane.dispatcher.shares.served[Share(MODEL, 0, "u")]
        assert served == INPUT_WEIGHT * 10 + OUTPUT_WEIGHT * num_tokens
