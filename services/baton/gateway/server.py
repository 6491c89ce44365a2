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
from baton.core.errors import ConfigError
from baton.core.gc_pauses import settle_gc
from baton.core.settings import (
    GatewaySettings,
    ModelSettings,
    RecordSettings,
    RouterSettings,
    StoreSettings,
    TlsSettings,
)
from baton.core.store_url import EMBEDDED
from baton.gateway.answer.base import OpenAnswers
from baton.gateway.api.kept_responses import KeptResponses
from baton.gateway.api.prepare import ServedModel
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.dispatch import Dispatcher
from baton.gateway.hints import Hints
from baton.gateway.http.server import HttpServer
from baton.gateway.keys.access import open_access, shortage_of_keys
from baton.gateway.keys.auth import is_loopback
from baton.gateway.keys.operator_access import OperatorAccess
from baton.gateway.operations import Operations
from baton.gateway.process_metrics import all_metrics
from baton.gateway.process_pages import ProcessPages
from baton.gateway.queue.share_exchange import ShareExchange
from baton.gateway.readiness import Readiness
from baton.gateway.recent import RecentTimes
from baton.gateway.records.record_book import RecordBook
from baton.gateway.records.record_writer import RecordWriter, read_record
from baton.gateway.rpc.server import RpcServer
from baton.gateway.text.tokenizer import Tokenizer
from baton.gateway.traffic import Traffic
from baton.gateway.workers.fleet import Fleet
from baton.gateway.workers.kv_events import KvIndexReader
from baton.gateway.workers.kv_index_view import KvIndexView
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.router.shared.index import IndexView
from baton.router.shared.memory import SharedFile
from baton.store.base import Store
from baton.store.connect import connect
from baton.store.embedded_server import EmbeddedStoreServer
from baton.telemetry import rpc
from baton.telemetry.addresses import join_address
from baton.telemetry.certificates import Certificates, TlsFiles
from baton.telemetry.deployment_tls import use_tls
from baton.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What one gateway is told. `folder` is the resolved model folder (weights are not needed)."""

    gateway: GatewaySettings
    records: RecordSettings
    router: RouterSettings
    store: StoreSettings
    tls: TlsSettings
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
async def serve_store(config: StoreSettings, token: str) -> AsyncIterator[tuple[Store, str]]:
    """The store and its URL; the embedded one lives as long as this context.

    Raises ConfigError for a wrong URL or a taken port.
    """
    if config.url != EMBEDDED:
        if config.file is not None:
            raise ConfigError(
                "store.file (--store-file) is the embedded store's; leave it out, or store.url "
                "(--store)"
            )
        store = await connect(config.url, token, config.key_prefix, config.lasting_ttl_s)
        try:
            yield store, config.url
        finally:
            await store.close()
        return
    server = rpc.server(token)
    port = rpc.listen(server, config.host, config.port)
    url = f"grpc://{join_address(config.host, port)}"
    service = EmbeddedStoreServer(file=config.file)
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


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """A process's place among those that share the gateway's ports: a folder of theirs, and the
    descriptor of the prefix index, which the first one feeds (None: each has its own).
    """

    index: int
    folder: Path
    index_fd: int | None


def _prefix_index(
    config: GatewayConfig, fleet: Fleet, metrics: Metrics, slot: ProcessSlot | None
) -> KvIndexReader | KvIndexView:
    if slot is None or slot.index_fd is None:
        return KvIndexReader(fleet, config.token, config.router, metrics)
    file = SharedFile(slot.index_fd)
    if slot.index == 0:
        return KvIndexReader(fleet, config.token, config.router, metrics, share=file)
    return KvIndexView(fleet, config.router, IndexView(file))


@contextlib.asynccontextmanager
async def open_context(
    config: GatewayConfig,
    store: Store,
    *,
    slot: ProcessSlot | None = None,
    is_proxied: bool = False,
) -> AsyncIterator[Context]:
    """What the APIs share, running; its requests are ended with an error on the way out.

    `is_proxied`: somebody else listens, so `gateway.host` does not say who reaches it.
    """
    name = config.model_name
    document = model_folder.config(config.folder)
    tokenizer = Tokenizer.load(config.folder, config.gateway.tokenizer_cache_bytes)
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
    identity = model_folder.tokenizer_identity(config.folder)
    fleet = Fleet(store, Pool(), config.token, config.gateway, metrics, tokenizer=identity)
    policy = policy_named(config.router.policy, config.router)
    reader = None
    if policy.needs_overlap:
        reader = _prefix_index(config, fleet, metrics, slot)
    prefixes = None if reader is None else reader.lookup
    dispatcher = Dispatcher(fleet, policy, config.gateway, metrics, [name], prefixes=prefixes)

    readiness = Readiness(fleet, reader.is_synced if reader else lambda: True)
    answers = OpenAnswers()
    traffic = Traffic(store, fleet.pool, lambda: fleet.on_room())
    operations = Operations(
        OperatorAccess(config.token, is_local=is_loopback(config.gateway.host) and not is_proxied),
        fleet,
        traffic,
        RecentTimes(config.gateway.status_window_s),
    )
    writer = RecordWriter(store, config.records, metrics)

    def shortage(model: str) -> str | None:
        return None if fleet.is_ready(model) else fleet.shortage(model)

    fleet.start()
    traffic.start()
    if reader is not None:
        reader.start()
    writer.start()
    exchange = ShareExchange(store, dispatcher.shares)
    exchange.start()
    try:
        async with open_access(store, config.gateway, metrics) as access:
            yield Context(
                models={name: served},
                generator=dispatcher,
                prefetcher=Hints(fleet, policy, prefixes),
                settings=config.gateway,
                metrics=metrics,
                not_ready=lambda: readiness.reason() or shortage_of_keys(access),
                shortage=shortage,
                workers=fleet.workers,
                records=RecordBook(
                    config.records, answers, writer.offer, lambda name: read_record(store, name)
                ),
                answers=answers,
                responses=KeptResponses(
                    store, config.gateway.response_ttl_s, config.gateway.max_responses_bytes
                ),
                operations=operations,
                access=access,
            )
    finally:
        await dispatcher.finish(0.0)
        await exchange.close()
        await traffic.close()
        await writer.close()
        if reader is not None:
            await reader.close()
        await fleet.close()
        tokenizer.close()


def _certificates(settings: GatewaySettings) -> Certificates | None:
    """For the two ports; None: without TLS. Raises ConfigError."""
    if settings.tls_cert_file is None:
        return None
    assert settings.tls_key_file is not None
    return Certificates(TlsFiles("gateway.tls_", settings.tls_cert_file, settings.tls_key_file))


class GatewayServer:
    """One process of a gateway, on its ports. `http_socket` is bound already, so that a taken port
    shows early.
    """

    def __init__(
        self, config: GatewayConfig, http_socket: socket.socket, slot: ProcessSlot | None = None
    ) -> None:
        self._config = config
        self._socket = http_socket
        self._slot = slot
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> Addresses:
        """Serve; raises ConfigError when something cannot be had."""
        config = self._config
        use_tls(config.tls)
        certificates = _certificates(config.gateway)
        try:
            store, store_url = await self._stack.enter_async_context(
                serve_store(config.store, config.token)
            )
            self.context = await self._stack.enter_async_context(
                open_context(config, store, slot=self._slot)
            )
            if self._slot is not None:
                await self._share(self._slot)
            self._http = HttpServer(create_app(self.context), self._socket, certificates)
            host, port = config.gateway.host, config.gateway.grpc_port
            self._rpc = RpcServer(
                self.context, host, port, certificates, shared=self._slot is not None
            )
            await self._http.start()
            await self._rpc.start()
            settle_gc()
        except BaseException:
            await self._stack.aclose()
            raise
        scheme = "https" if certificates else "http"
        return Addresses(
            http=f"{scheme}://{join_address(host, self._http.port)}",
            grpc=join_address(host, self._rpc.port),
            store=store_url,
        )

    async def _share(self, slot: ProcessSlot) -> None:
        """Whichever process is asked answers for all."""
        context = self.context
        metrics = ProcessPages(slot.folder, slot.index, "metrics", context.metrics.render)
        times = ProcessPages(slot.folder, slot.index, "times", context.operations.page)
        for pages in (metrics, times):
            await pages.start()
            self._stack.push_async_callback(pages.stop)

        async def others() -> list[bytes]:
            return list((await times.others()).values())

        context.render_metrics = lambda: all_metrics(metrics)
        context.operations.others = others

    async def leave(self) -> None:
        """Say so, go on for a while, for load balancers to notice, then finish what is open."""
        settings = self._config.gateway
        self.context.is_leaving = True
        await asyncio.sleep(settings.unready_wait_s)
        await self.stop(settings.drain_timeout_s)

    async def stop(self, grace_s: float) -> None:
        """Accept no more, give open requests `grace_s`, end the rest with an error, close."""
        await self._http.stop(self.context.answers, grace_s)
        await self._rpc.stop(0.2)
        await self._stack.aclose()
