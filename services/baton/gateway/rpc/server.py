"""The gRPC port for applications: InferenceService, KServe's protocol, health, reflection."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from baton.gateway.context import Context
from baton.gateway.rpc import kserve
from baton.gateway.rpc.inference import SERVICE, InferenceServicer, abort
from baton.gateway.rpc.keys import KeyInterceptor
from baton.gateway.rpc.kserve import KServeServicer
from baton.telemetry import rpc
from baton.telemetry.certificates import Certificates
from baton.telemetry.malformed import MalformedInterceptor
from baton.v1 import inference_pb2_grpc, kserve_pb2_grpc

_HEALTH_INTERVAL_S = 0.2
# Of messages up to so many times the limit we say ourselves that they are too large; gRPC, which
# has no details to give, of those beyond.
_HARD_LIMIT = 4
_SERVICES = (SERVICE, kserve.SERVICE)


class RpcServer:
    """The server on its port, from `start` to `stop`. Applications need no token here."""

    def __init__(
        self,
        context: Context,
        host: str,
        port: int,
        certificates: Certificates | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """Binds, with TLS by `certificates`; a `shared` port is one of several processes.

        Raises ConfigError naming host and port when they cannot be had.
        """
        self._context = context
        max_bytes = context.settings.max_body_bytes
        self._server = grpc.aio.server(
            interceptors=[KeyInterceptor(context, abort), MalformedInterceptor(abort, max_bytes)],
            options=[
                ("grpc.max_receive_message_length", _HARD_LIMIT * max_bytes),
                ("grpc.so_reuseport", int(shared)),
                # Applications may ping every 5 s; one that answers no ping for 20 s is gone.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
        )
        self.port = rpc.bind(self._server, host, port, certificates, shared=shared)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving: bool | None = None
        inference = InferenceServicer(context)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            inference, self._server
        )
        kserve_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            KServeServicer(context, inference), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept calls."""
        await self._set_health()
        await self._server.start()
        self._watch = asyncio.create_task(self._follow_readiness())

    async def stop(self, grace_s: float) -> None:
        """Accept no more and give open calls `grace_s` seconds. Drain the answers first."""
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _follow_readiness(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            await self._set_health()

    async def _set_health(self) -> None:
        serving = self._context.unready() is None
        if serving is self._serving:
            return
        self._serving = serving
        statuses = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", *_SERVICES):
            await self._health.set(service, statuses.SERVING if serving else statuses.NOT_SERVING)
