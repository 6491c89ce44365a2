"""A `SignalSource` whose gateways and pods say nothing, and that tells them nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton_operator.seen import PodSeen, Progress, ServiceSeen, Signals


class Silence:
    """No gateway answers."""

    async def signals(self, service: ServiceSeen, gateways: Sequence[PodSeen]) -> Signals | None:
        return None

    async def progress(self, pod: PodSeen) -> Progress | None:
        return None

    async def drain(
        self,
        service: ServiceSeen,
        gateways: Sequence[PodSeen],
        worker: str,
        within_s: float,
        reason: str,
    ) -> None: ...

    async def undrain(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], worker: str
    ) -> None: ...

    async def set_traffic(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], weights: Mapping[str, float]
    ) -> None: ...
