"""Who has to go when too many wait (pure)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Backlog(Generic[T]):
    """Items by class and tenant, in order of arrival.

    The lowest class gives way first; in it the tenant that has most waiting for its weight, and of
    that one the youngest. So a flood fills the queue with its own requests only as long as nobody
    else wants the room: what is bounded is shared as the service itself.
    """

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        # Class to tenant to items; nothing in it is empty.
        self._classes: dict[int, dict[str, dict[T, None]]] = {}

    def add(self, item: T, priority: int, tenant: str) -> None:
        """It waits from now on."""
        self._classes.setdefault(priority, {}).setdefault(tenant, {})[item] = None

    def remove(self, item: T, priority: int, tenant: str) -> None:
        """It waits no longer; unknown items are ignored."""
        tenants = self._classes.get(priority, {})
        items = tenants.get(tenant)
        if items is None or item not in items:
            return
        del items[item]
        if not items:
            del tenants[tenant]
            if not tenants:
                del self._classes[priority]

    def to_displace(self, priority: int, tenant: str) -> T | None:
        """Whom a newcomer may push out; None when it has the least right to the room itself."""
        lowest = min(self._classes, default=None)
        if lowest is None or lowest > priority:
            return None
        tenants = self._classes[lowest]
        longest = max(tenants, key=lambda name: len(tenants[name]) / self._weight_of(name))
        if lowest == priority:
            own = (len(tenants.get(tenant, ())) + 1) / self._weight_of(tenant)
            if len(tenants[longest]) / self._weight_of(longest) <= own:
                return None
        return next(reversed(tenants[longest]))
