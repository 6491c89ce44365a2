"""The Virtual Token Counter: its service bound, its lift, and its queue against a model."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.queue_policy.base import QueuePolicy
from baton.core.queue_policy.vtc import INPUT_WEIGHT, OUTPUT_WEIGHT, Vtc


@dataclass(frozen=True)
class Item:
    tenant: str
    number: int
    prompt: int = 1
    output: int = 1


def queue_of(weights: dict[str, float] | None = None) -> Vtc[Item]:
    weights = weights or {}
    return Vtc(
        lambda item: item.tenant,
        lambda item: INPUT_WEIGHT * item.prompt,
        lambda tenant: weights.get(tenant, 1.0),
    )


class Server:
    """Continuous batching of at most `slots` requests, a token each a step; charges as it serves.

    `service[tenant]` is what each tenant has got, in the units of the paper.
    """

    def __init__(self, queue: Vtc[Item], slots: int) -> None:
        self.queue = queue
        self.slots = slots
        self.running: dict[Item, int] = {}
        self.service: dict[str, float] = defaultdict(float)

    def step(self) -> None:
        while len(self.running) < self.slots and len(self.queue):
            item = self.queue.pop()
            self.running[item] = item.output
            self._serve(item.tenant, INPUT_WEIGHT * item.prompt)
        for item in list(self.running):
            self._serve(item.tenant, OUTPUT_WEIGHT)
            self.running[item] -= 1
            if not self.running[item]:
                del self.running[item]

    def _serve(self, tenant: str, cost: float) -> None:
        self.queue.charge(tenant, cost)
        self.service[tenant] += cost


@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 20), st.integers(1, 50), st.integers(1, 20)),
        min_size=1,
        max_size=60,
    ),
)
def test_service_of_two_that_always_wait_stays_within_the_bound(
    slots: int, sizes: list[tuple[int, int, int, int]]
) -> None:
    queue = queue_of()
    server = Server(queue, slots)
    for number, (prompt_a, output_a, prompt_b, output_b) in enumerate(sizes):
        queue.push(Item("a", number, prompt_a, output_a))
        queue.push(Item("b", number, prompt_b, output_b))
    longest = max(max(p, q) for p, _, q, _ in sizes)
    at_work = slots * max(max(p, q) for _, p, _, q in sizes)
    bound = 2 * max(INPUT_WEIGHT * longest, OUTPUT_WEIGHT * at_work)
    waiting = {item.tenant for item in queue}
    while waiting == {"a", "b"}:
        assert abs(server.service["a"] - server.service["b"]) <= bound
        server.step()
        waiting = {item.tenant for item in queue}


def test_a_flood_takes_no_more_than_its_share() -> None:
    queue = queue_of()
    server = Server(queue, slots=4)
    rng = random.Random(5)
    for number in range(2000):
        queue.push(Item("flood", number, rng.randint(1, 100), rng.randint(1, 50)))
    for number in range(200):
        queue.push(Item("light", number, rng.randint(1, 100), rng.randint(1, 50)))
    while any(item.tenant == "light" for item in queue):
        server.step()
    assert server.service["light"] == pytest.approx(server.service["flood"], rel=0.05)


def test_service_follows_the_weights() -> None:
    queue = queue_of({"gold": 3.0})
    server = Server(queue, slots=2)
    for number in range(600):
        queue.push(Item("gold", number, 10, 5))
        queue.push(Item("plain", number, 10, 5))
    for _ in range(500):
        server.step()
    assert server.service["gold"] / server.service["plain"] == pytest.approx(3.0, rel=0.05)


def test_who_comes_back_has_saved_up_nothing() -> None:
    queue = queue_of()
    server = Server(queue, slots=1)
    for number in range(100):
        queue.push(Item("busy", number, 10))
    for _ in range(50):
        server.step()
    for number in range(50):
        queue.push(Item("new", number, 10))
    before = dict(server.service)
    for _ in range(20):
        server.step()
    got = {t: server.service[t] - before.get(t, 0.0) for t in ("busy", "new")}
    assert abs(got["busy"] - got["new"]) <= 2 * (10 + OUTPUT_WEIGHT)


def test_who_was_served_without_waiting_is_not_punished_for_it() -> None:
    """What was served while there was room for all took nothing from anybody."""
    queue = queue_of()
    for _ in range(100):
        queue.pass_through("early")
        queue.charge("early", 1000.0)
    for number in range(3):
        queue.push(Item("late", number))
        queue.push(Item("early", number))
    order = []
    while len(queue):
        item = queue.pop()
        queue.charge(item.tenant, 10.0)
        order.append(item.tenant)
    assert order == ["late", "early"] * 3


def test_equals_are_served_in_the_order_of_their_coming() -> None:
    queue = queue_of()
    queue.push(Item("a", 1))
    queue.push(Item("b", 1))
    queue.remove(Item("a", 1))
    queue.push(Item("a", 2))
    assert [queue.pop().tenant for _ in range(2)] == ["b", "a"]


def test_what_comes_back_goes_before_all_tenants() -> None:
    queue: QueuePolicy[Item] = queue_of()
    queue.push(Item("a", 1))
    queue.push_front(Item("b", 2))
    queue.push_front(Item("c", 3))
    assert [item.tenant for item in queue] == ["c", "b", "a"]
    for push in (queue.push, queue.push_front):
        for item in (Item("a", 1), Item("b", 2)):
            with pytest.raises(ValueError, match="already"):
                push(item)
    assert len(queue) == 3


def test_work_ahead_is_what_will_be_served_before() -> None:
    queue = queue_of()
    for number in range(10):
        queue.push(Item("flood", number, 100))
    assert queue.ahead("flood") == 1000
    assert queue.ahead("light") == 0, "its turn comes first"
    queue.push(Item("light", 0, 300))
    # The flood is served until it has had as much, then light's next one comes.
    assert queue.ahead("light") == 300 + 300
    assert queue.ahead("flood") == 1000 + 300


def test_tenants_that_are_gone_are_forgotten() -> None:
    queue = queue_of()
    queue.push(Item("always here", 0))
    for number in range(10_000):
        queue.push(Item(f"tenant {number}", number))
        queue.pop()
        queue.charge("always here", 1.0)
    assert len(queue._tenants) < 200
    assert len(queue._heap) < 200


class Queue(RuleBasedStateMachine):
    """Random operations beside plain lists; counters kept by algorithm 2 as it is printed."""

    tenants = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue_of({"c": 2.0})
        self.waiting: dict[str, list[Item]] = defaultdict(list)
        self.returned: list[Item] = []
        self.counters: dict[str, float] = defaultdict(float)
        self.last: str | None = None
        self.number = 0

    def weight(self, tenant: str) -> float:
        return 2.0 if tenant == "c" else 1.0

    @rule(tenant=tenants, prompt=st.integers(1, 9))
    def push(self, tenant: str, prompt: int) -> None:
        self.number += 1
        item = Item(tenant, self.number, prompt)
        if not self.waiting[tenant]:
            active = [self.counters[t] for t, items in self.waiting.items() if items]
            last = self.counters[self.last] if self.last else 0.0
            floor = min(active, default=last)
            self.counters[tenant] = max(self.counters[tenant], floor)
        self.waiting[tenant].append(item)
        self.queue.push(item)

    @rule(tenant=tenants)
    def push_front(self, tenant: str) -> None:
        self.number += 1
        item = Item(tenant, self.number)
        self.returned.insert(0, item)
        self.queue.push_front(item)

    @rule(tenant=tenants, cost=st.integers(0, 20))
    def charge(self, tenant: str, cost: int) -> None:
        if tenant not in self.counters:
            return
        self.counters[tenant] += cost / self.weight(tenant)
        self.queue.charge(tenant, cost)

    @precondition(lambda self: len(self.queue))
    @rule()
    def pop(self) -> None:
        item = self.queue.pop()
        if self.returned:
            assert item == self.returned.pop(0)
            return
        least = min(self.counters[t] for t, items in self.waiting.items() if items)
        assert self.counters[item.tenant] == least, "the least counter is served"
        assert item == self.waiting[item.tenant][0], "first come, first served inside a tenant"
        self.left(item)

    @precondition(lambda self: len(self.queue))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        everything = self.returned + [i for items in self.waiting.values() for i in items]
        item = data.draw(st.sampled_from(everything))
        assert self.queue.remove(item)
        assert not self.queue.remove(item)
        if item in self.returned:
            self.returned.remove(item)
        else:
            self.left(item)

    def left(self, item: Item) -> None:
        self.waiting[item.tenant].remove(item)
        if not self.waiting[item.tenant]:
            self.last = item.tenant

    @invariant()
    def nothing_is_lost(self) -> None:
        here = {i for items in self.waiting.values() for i in items} | set(self.returned)
        listed = list(self.queue)
        assert set(listed) == here
        assert len(listed) == len(self.queue) == len(here)
        # Work conserving: somebody is next whenever anybody waits, and it is who is listed first.
        assert self.queue.peek() == (listed[0] if listed else None)
        for tenant in self.counters:
            assert self.queue.counter(tenant) == self.counters[tenant]


TestQueue = Queue.TestCase
