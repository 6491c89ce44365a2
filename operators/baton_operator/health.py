"""/healthz, /readyz and /metrics. A standby is healthy and ready: waiting is what it is for."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

from baton_operator.metrics import CONTENT_TYPE, OperatorMetrics

MAX_ROUND_S = 600.0
"""A round that has taken longer hangs: each of its calls has its own, far shorter bound."""


@dataclass(slots=True)
class Health:
    """What the probes are told; the parts write it."""

    leading: bool = False
    stopping: bool = False
    oldest_round_s: Callable[[], float] = lambda: 0.0
    """How long the longest round in progress has taken."""
    unwatched: Callable[[], frozenset[str]] = frozenset
    """Kinds that the operator's role does not let it watch."""

    @property
    def is_alive(self) -> bool:
        return self.oldest_round_s() < MAX_ROUND_S

    @property
    def is_ready(self) -> bool:
        return not self.stopping


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens, once it does."""

    metrics: int
    health: int


@contextlib.asynccontextmanager
async def serving(
    health: Health, metrics: OperatorMetrics, metrics_port: int, health_port: int
) -> AsyncIterator[Ports]:
    """Answer on both ports, on every address of the pod. Raises OSError for a port in use."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(health.is_alive, health)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.is_ready, health)

    async def measured(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    probes, numbers = web.Application(), web.Application()
    probes.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    numbers.add_routes([web.get("/metrics", measured)])
    async with (
        _listening(probes, health_port) as its_health,
        _listening(numbers, metrics_port) as its_metrics,
    ):
        yield Ports(metrics=its_metrics, health=its_health)


def _answer(good: bool, health: Health) -> web.Response:
    body = {
        "role": "leader" if health.leading else "standby",
        "stopping": health.stopping,
        "unwatched": sorted(health.unwatched()),
    }
    return web.json_response(body, status=200 if good else 503)


@contextlib.asynccontextmanager
async def _listening(app: web.Application, port: int) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        listener = _listener(port)
        await web.SockSite(runner, listener).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()


def _listener(port: int) -> socket.socket:
    """One socket for both families, so that a port that is chosen is one port."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
