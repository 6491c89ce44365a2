"""The gateway put together: store, fleet, dispatcher, and the two servers in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import baton
from baton.core import model_folder
from baton.core.settings import GatewaySettings, ModelSettings, RouterSettings, StoreSettings
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.dispatch import Dispatcher
from baton.gateway.fleet import Fleet
from baton.gateway.gc_pauses import settle_gc
from baton.gateway.hints import Hints
from baton.gateway.http_server import HttpServer
from baton.gateway.prepare import ServedModel
from baton.gateway.rpc import RpcServer
from baton.gateway.tokenizer import Tokenizer
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.store.base import Store
from baton.store.connect import connect
from baton.store.embedded import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.telemetry.metrics import Metrics

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What one gateway is told. `folder` is the resolved model folder (weights are not needed)."""

    gateway: GatewaySettings
    router: RouterSettings
    store: StoreSettings
    model: ModelSettings
    folder: Path
    token: str

    @property
    def model_name(self) -> str:
        return self.model.name or model_folder.served_name(self.model.source)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running gateway is reached; `store` is for workers and further gateways."""

    http: str
    grpc: str
    store: str


@contextlib.asynccontextmanager
async def open_store(config: StoreSettings, token: str) -> AsyncIterator[tuple[Store, str]]:
    """The store and its URL; the embedded one lives as long as this context.

    Raises ConfigError for a wrong URL or a taken port.
    """
    if config.url != EMBEDDED:
        store = await connect(config.url, token, config.key_prefix)
        try:
            yield store, config.url
        finally:
            await store.close()
        return
    server = rpc.server(token)
    port = rpc.listen(server, config.host, config.port)
    url = f"grpc://{rpc.join_address(config.host, port)}"
    service = EmbeddedStoreServer()
    service.add_to_server(server)
    await server.start()
    try:
        store = await connect(url, token, config.key_prefix)
        try:
            yield store, url
        finally:
            await store.close()
    finally:
        service.close()
        await server.stop(grace=0.2)


@contextlib.asynccontextmanager
async def open_context(config: GatewayConfig, store: Store) -> AsyncIterator[Context]:
    """What the APIs share, running; its requests are ended with an error on the way out."""
    name = config.model_name
    document = model_folder.config(config.folder)
    tokenizer = Tokenizer.load(config.folder)
    served = ServedModel(
        name=name,
        tokenizer=tokenizer,
        context_length=model_folder.served_length(document, config.model.max_model_len),
        vocab_size=model_folder.vocab_size(document),
        created=int(time.time()),
    )
    metrics = Metrics()
    metrics.build.labels(baton.__version__).set(1)
    loop = asyncio.get_running_loop()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    fleet = Fleet(store, Pool(), config.token, config.gateway, metrics)
    policy = policy_named(config.router.policy)
    dispatcher = Dispatcher(fleet, policy, config.gateway, metrics, [name])

    def not_ready() -> str | None:
        return None if fleet.is_ready(name) else fleet.shortage(name)

    fleet.start()
    try:
        yield Context(
            models={name: served},
            generator=dispatcher,
            prefetcher=Hints(fleet, policy),
            settings=config.gateway,
            metrics=metrics,
            not_ready=not_ready,
            workers=fleet.workers,
        )
    finally:
        await dispatcher.finish(0.0)
        await fleet.close()
        tokenizer.close()


class GatewayServer:
    """A gateway on its ports. `http_socket` is bound already, so that a taken port shows early."""

    def __init__(self, config: GatewayConfig, http_socket: socket.socket) -> None:
        self._config = config
        self._socket = http_socket
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> Addresses:
        """Serve; raises ConfigError when something cannot be had."""
        config = self._config
        try:
            store, store_url = await self._stack.enter_async_context(
                open_store(config.store, config.token)
            )
            self.context = await self._stack.enter_async_context(open_context(config, store))
            self._http = HttpServer(create_app(self.context), self._socket)
            host = config.gateway.host
            self._rpc = RpcServer(self.context, host, config.gateway.grpc_port)
            await self._http.start()
            await self._rpc.start()
            settle_gc()
        except BaseException:
            await self._stack.aclose()
            raise
        return Addresses(
            http=f"http://{rpc.join_address(host, self._http.port)}",
            grpc=rpc.join_address(host, self._rpc.port),
            store=store_url,
        )

    async def stop(self, grace_s: float) -> None:
        """Accept no more, give open requests `grace_s`, end the rest with an error, close."""
        await self._http.stop(self.context.answers, grace_s)
        await self._rpc.stop(0.2)
        await self._stack.aclose()
