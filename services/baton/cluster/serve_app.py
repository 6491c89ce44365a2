"""Baton as a Ray Serve application: `serve run baton.cluster.serve_app:app pools.decode=2`.

The ingress is the gateway's ASGI app; its workers are plain actors that it owns, on the same
cluster. Such a gateway lives in a Ray process and goes with it, and speaks HTTP only.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import ray
from ray import serve

from baton.cluster.actors import Actors
from baton.cluster.keeper import Keeper
from baton.cluster.parts import cluster_config, gateway_config
from baton.cluster.placement import place
from baton.cluster.pools import targets
from baton.cluster.protocol import ClusterConfig
from baton.core import model_folder, settings_loader
from baton.core.errors import BatonError, UnavailableError
from baton.core.settings import Settings
from baton.core.token import new_token, read_or_create_token
from baton.gateway.app import GatewayApp, create_lifespan_app
from baton.gateway.context import Context
from baton.gateway.server import open_context, serve_store
from baton.telemetry import logging
from baton.telemetry.deployment_tls import use_tls
from baton.worker.actor import WorkerActor

TICK_S = 0.1
# Longest wait of a Serve that stops for the workers to leave the store.
GOODBYE_S = 1.0


class WorkerKeeper:
    """Keeps the pools at their target from a thread: Ray's calls would block the event loop."""

    def __init__(self, config: ClusterConfig) -> None:
        groups = config.groups()
        target = targets(groups.pools)
        placement = place(groups, ray.cluster_resources(), sum(target.values()), local=False)
        self._actors = Actors(
            WorkerActor,
            config,
            placement,
            target,
            lambda: True,
            lambda event: None,
            self._on_failed,
        )
        self._timeout_s = groups.cluster.start_timeout_s
        self._error: BatonError | None = None
        self._ready = threading.Event()
        self._keeper = Keeper("worker-keeper", self._step, TICK_S)
        self.problem = self._keeper.problem

    async def start(self) -> None:
        """Return when all workers serve; raises the error of one that cannot."""
        self._keeper.start()
        deadline = time.monotonic() + self._timeout_s
        while not self._ready.is_set():
            if self._error is not None:
                raise self._error
            if time.monotonic() > deadline:
                waiting = self._keeper.failure() or ", ".join(self._actors.waiting_for())
                raise UnavailableError(f"not ready after {self._timeout_s:.0f} s: {waiting}")
            await asyncio.sleep(TICK_S)

    async def stop(self) -> None:
        """Let the workers leave the store. Ray ends their processes with this one."""
        await asyncio.to_thread(self._keeper.stop)
        await asyncio.to_thread(self._actors.drain_all, 0.0, GOODBYE_S, lambda: False)

    def _step(self) -> None:
        self._actors.step()
        if self._actors.all_ready:
            self._ready.set()

    def _on_failed(self, error: BatonError) -> None:
        if not self._ready.is_set():
            self._error = error


# The one replica holds the embedded store and the fleet. It claims no CPU: its workers do.
@serve.deployment(
    name="baton",
    num_replicas=1,
    max_ongoing_requests=100_000,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Gateway:
    """The replica. Serve calls the hook below after `__init__`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.model_validate(settings)
        logging.setup(self._settings.log.level, self._settings.log.format)

    def __serve_build_asgi_app__(self) -> GatewayApp:
        return create_lifespan_app(self._open)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[Context]:
        settings = self._settings
        folder = await asyncio.to_thread(
            model_folder.resolve, settings.model.source, settings.model.revision
        )
        token_file = settings.token_file
        token = new_token() if token_file is None else read_or_create_token(token_file)
        config = gateway_config(settings, folder, token)
        use_tls(settings.tls)
        async with serve_store(settings.store, token) as (store, store_url):
            keeper = WorkerKeeper(cluster_config(settings, config, store_url))
            async with open_context(config, store, is_proxied=True) as context:
                not_ready = context.not_ready
                context.not_ready = lambda: keeper.problem() or not_ready()
                try:
                    await keeper.start()
                    yield context
                finally:
                    await keeper.stop()


def app(args: Mapping[str, str]) -> serve.Application:
    """Serve's builder: settings come from its arguments (`pools.decode=2`) and the environment."""
    settings = settings_loader.load(overrides=args)
    application: serve.Application = Gateway.bind(settings.model_dump(mode="json"))  # type: ignore[attr-defined]
    return application
