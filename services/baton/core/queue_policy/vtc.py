"""Weighted fair share between tenants: the Virtual Token Counter.

Source: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, algorithm 2. A tenant's
counter rises by the tokens that it is served, divided by its weight; who waits with the least
counter is served next. A tenant that comes back after a pause is lifted to the least counter of
those who wait, so it cannot save up service. Work conserving: whoever waits is served when nobody
with a lesser counter does.

Bound (theorem 4.4 there): between two tenants of equal weight that wait all the time, service
differs by at most 2 max(INPUT_WEIGHT * longest prompt, OUTPUT_WEIGHT * tokens at work at once).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from baton.core.queue_policy.base import pop_next
from baton.core.queue_policy.fcfs import Fcfs

T = TypeVar("T", bound=Hashable)

# Cost of a prompt token and of an output token, as in the paper.
INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
# Idle tenants that may be remembered for nothing before they are looked through.
_MIN_SWEEP = 64


class _Tenant(Generic[T]):
    __slots__ = ("counter", "items", "joined", "queued", "weight")

    def __init__(self, weight: float, counter: float) -> None:
        self.weight = weight
        self.counter = counter
        # Number of its newest join, which tells its heap entry from older ones.
        self.joined = 0
        # Waiting items in order of arrival, each with its cost, and the sum of those.
        self.items: OrderedDict[T, float] = OrderedDict()
        self.queued = 0.0


class Vtc(Generic[T]):
    """QueuePolicy by fair share; first come, first served inside a tenant.

    Nothing is charged by taking an item out, as it may not be served: call `charge` with the cost
    of its prompt when it is, then with that of its output as it comes. `cost_of` is what serving an
    item is expected to be charged in all, for looks ahead (`ahead`, iteration). What comes back
    with `push_front` has been served before, so it goes before all tenants.
    """

    def __init__(
        self,
        tenant_of: Callable[[T], str],
        cost_of: Callable[[T], float],
        weight_of: Callable[[str], float] = lambda _: 1.0,
    ) -> None:
        self._tenant_of = tenant_of
        self._cost_of = cost_of
        self._weight_of = weight_of
        self._returned: Fcfs[T] = Fcfs()
        self._tenants: dict[str, _Tenant[T]] = {}
        self._active: dict[str, _Tenant[T]] = {}
        # (counter, number of the join, tenant) of those who wait, and of some who have left.
        # Counters only rise, so an entry may show too little, never too much; it is put right when
        # it comes to the top.
        self._heap: list[tuple[float, int, _Tenant[T]]] = []
        self._num_joins = 0
        self._last: _Tenant[T] | None = None
        self._length = 0
        self._sweep_at = _MIN_SWEEP

    @property
    def num_tenants(self) -> int:
        """Tenants that wait."""
        return len(self._active)

    @property
    def cost(self) -> float:
        """Cost of all that waits."""
        return sum(t.queued for t in self._active.values()) + self._returned_cost()

    # --- counters ---

    def counter(self, tenant: str) -> float:
        """Its virtual tokens."""
        return self._tenant(tenant).counter

    def charge(self, tenant: str, cost: float) -> None:
        """It has been served, here or elsewhere. `cost` is at least 0."""
        found = self._tenant(tenant)
        found.counter += cost / found.weight

    def pass_through(self, tenant: str) -> None:
        """An item of it came and was taken at once, so it never waited here."""
        found = self._tenant(tenant)
        if not found.items:
            found.counter = max(found.counter, self._floor())
            if not self._length:
                self._last = found

    def ahead(self, tenant: str) -> float:
        """Cost of what would be served before a new item of the tenant, as things stand."""
        found = self._tenant(tenant)
        # The counter at which its turn comes: others are served up to there.
        start = max(found.counter, self._floor()) + found.queued / found.weight
        cost = found.queued + self._returned_cost()
        for other in self._active.values():
            if other is not found:
                cost += min(other.queued, max(0.0, start - other.counter) * other.weight)
        return cost

    # --- QueuePolicy ---

    def push(self, item: T) -> None:
        if item in self._returned:
            raise ValueError(f"{item!r} is in the queue already")
        name = self._tenant_of(item)
        tenant = self._tenant(name)
        if item in tenant.items:
            raise ValueError(f"{item!r} is in the queue already")
        if not tenant.items:
            self._join(name, tenant)
        cost = tenant.items[item] = self._cost_of(item)
        tenant.queued += cost
        self._length += 1

    def push_front(self, item: T) -> None:
        tenant = self._tenants.get(self._tenant_of(item))
        if tenant is not None and item in tenant.items:
            raise ValueError(f"{item!r} is in the queue already")
        self._returned.push_front(item)
        self._length += 1

    def peek(self) -> T | None:
        item = self._returned.peek()
        if item is not None:
            return item
        tenant = self._least()
        return None if tenant is None else next(iter(tenant.items))

    def pop(self) -> T:
        return pop_next(self)

    def remove(self, item: T) -> bool:
        if self._returned.remove(item):
            self._length -= 1
            return True
        name = self._tenant_of(item)
        tenant = self._active.get(name)
        if tenant is None or item not in tenant.items:
            return False
        tenant.queued -= tenant.items.pop(item)
        self._length -= 1
        if not tenant.items:
            tenant.queued = 0.0
            self._last = self._active.pop(name)
        return True

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """As they would be served if each were charged its `cost_of` and nothing else."""
        yield from self._returned
        heap = [
            (tenant.counter, tenant.joined, iter(tenant.items.items()), tenant.weight)
            for tenant in self._active.values()
        ]
        heapq.heapify(heap)
        while heap:
            counter, number, items, weight = heap[0]
            following = next(items, None)
            if following is None:
                heapq.heappop(heap)
                continue
            item, cost = following
            yield item
            heapq.heapreplace(heap, (counter + cost / weight, number, items, weight))

    def _returned_cost(self) -> float:
        return sum(self._cost_of(item) for item in self._returned)

    # --- tenants ---

    def _tenant(self, name: str) -> _Tenant[T]:
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= self._sweep_at:
                self._sweep()
            tenant = self._tenants[name] = _Tenant(self._weight_of(name), self._floor())
        return tenant

    def _join(self, name: str, tenant: _Tenant[T]) -> None:
        tenant.counter = max(tenant.counter, self._floor())
        self._num_joins += 1
        tenant.joined = self._num_joins
        self._active[name] = tenant
        if len(self._heap) > 2 * len(self._active) + _MIN_SWEEP:
            self._heap = [(t.counter, t.joined, t) for t in self._active.values()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (tenant.counter, tenant.joined, tenant))

    def _least(self) -> _Tenant[T] | None:
        """Of those who wait, the one to be served; equals in the order in which they joined."""
        while self._heap:
            counter, number, tenant = self._heap[0]
            if not tenant.items or number != tenant.joined:
                heapq.heappop(self._heap)
            elif counter < tenant.counter:
                heapq.heapreplace(self._heap, (tenant.counter, number, tenant))
            else:
                return tenant
        return None

    def _floor(self) -> float:
        """What a tenant that joins is lifted to."""
        least = self._least() or self._last
        return 0.0 if least is None else least.counter

    def _sweep(self) -> None:
        """Forget the idle whose counter a return would lift anyway."""
        floor = self._floor()
        self._tenants = {
            name: tenant
            for name, tenant in self._tenants.items()
            if tenant.items or tenant is self._last or tenant.counter > floor
        }
        self._sweep_at = max(_MIN_SWEEP, 2 * len(self._tenants))
