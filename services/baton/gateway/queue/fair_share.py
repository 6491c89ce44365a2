"""What tenants are charged for: prompts when they are placed, output tokens as they come.

Output is counted now and then for all running requests at once (`settle`), so that tokens on their
way to clients cost nothing here. Pure; the queues' counters (`core.queue_policy.vtc`) are charged,
and the sums kept for other gateways (`share_exchange`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from baton.core.queue_policy.vtc import INPUT_WEIGHT, OUTPUT_WEIGHT, Vtc

if TYPE_CHECKING:
    from baton.gateway.running import Running

# Sums that are kept; beyond them those that have not changed for longest are dropped.
MAX_SHARES = 2000


class Share(NamedTuple):
    """Who shares what: tenants of one class share the workers of one model."""

    model: str
    priority: int
    tenant: str


class FairShare:
    """Charges the queue that `queue_of` gives for a (model, class)."""

    def __init__(
        self,
        queue_of: Callable[[str, int], Vtc[Running]],
        class_of: Callable[[Running], int],
    ) -> None:
        self._queue_of = queue_of
        self._class_of = class_of
        # Requests that were placed and have not ended, and their output tokens charged so far.
        self._charged: dict[Running, int] = {}
        self._served: OrderedDict[Share, float] = OrderedDict()

    @property
    def served(self) -> Mapping[Share, float]:
        """Cost of what this gateway has had served since its start; rises only, unless a share
        was dropped meanwhile. Call `settle` before.
        """
        return self._served

    def placed(self, running: Running) -> None:
        """It has got workers. A later attempt computes its prompt again at nobody's charge."""
        if running not in self._charged:
            self._charged[running] = running.ownership.num_generated
            self._charge(running, INPUT_WEIGHT * len(running.request.prompt))

    def ended(self, running: Running) -> None:
        """It is over, or was never placed."""
        if running in self._charged:
            self._settle(running)
            del self._charged[running]

    def settle(self) -> None:
        """Charge the output since the last time."""
        for running in self._charged:
            self._settle(running)

    def served_elsewhere(self, share: Share, cost: float) -> None:
        """Another gateway has had so much served."""
        self._queue_of(share.model, share.priority).charge(share.tenant, cost)

    def _settle(self, running: Running) -> None:
        num_generated = running.ownership.num_generated
        num_new = num_generated - self._charged[running]
        if num_new > 0:
            self._charged[running] = num_generated
            self._charge(running, OUTPUT_WEIGHT * num_new)

    def _charge(self, running: Running, cost: float) -> None:
        request = running.request
        share = Share(request.model, self._class_of(running), request.tenant)
        self._queue_of(share.model, share.priority).charge(share.tenant, cost)
        self._served[share] = self._served.get(share, 0.0) + cost
        self._served.move_to_end(share)
        if len(self._served) > MAX_SHARES:
            self._served.popitem(last=False)
