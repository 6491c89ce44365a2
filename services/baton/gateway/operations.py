"""What an operator has of a gateway: its workers, the split of traffic, how long requests take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from baton.gateway.keys.operator_access import OperatorAccess
from baton.gateway.recent import RecentTimes, Times
from baton.gateway.traffic import Traffic
from baton.gateway.workers.steering import Steering

# Gives the times of the other processes on the port.
Others = Callable[[], Awaitable[list[bytes]]]


@dataclass(slots=True)
class Operations:
    """`others` is there where several processes share the gateway's port."""

    access: OperatorAccess
    steering: Steering
    traffic: Traffic
    recent: RecentTimes
    others: Others | None = None

    def page(self) -> bytes:
        """This process' times, for the others."""
        return orjson.dumps(self.recent.times().to_json())

    async def times(self) -> tuple[Times, int]:
        """Of all processes that answer, and how many those are."""
        found = self.recent.times()
        pages = [] if self.others is None else await self.others()
        for page in pages:
            found.add(Times.from_json(orjson.loads(page)))
        return found, 1 + len(pages)
