"""The asyncio thread of a worker: its one gRPC server and what speaks through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from baton.telemetry import rpc
from baton.v1 import events_pb2_grpc, session_pb2_grpc, transfer_pb2_grpc, worker_pb2_grpc

T = TypeVar("T")


class AsyncThread:
    """An event loop on a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine there and wait for its result. Not from the loop itself."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def stop(self) -> None:
        """Cancel what is left and end the thread."""

        async def cancel_all() -> None:
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class WorkerServer:
    """Binds first, so that the address is known to those who are added before it starts."""

    def __init__(self, host: str, port: int, token: str) -> None:
        """`port` 0 takes any free one. Raises ConfigError when it cannot be had."""
        self._server: grpc.aio.Server = rpc.server(token)
        self.address = rpc.join_address(host, rpc.listen(self._server, host, port))
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]

    async def start(
        self,
        sessions: session_pb2_grpc.SessionServiceServicer,
        events: events_pb2_grpc.EventsServiceServicer,
        transfers: transfer_pb2_grpc.TransferServiceServicer,
        control: worker_pb2_grpc.WorkerServiceServicer,
    ) -> None:
        server = self._server
        session_pb2_grpc.add_SessionServiceServicer_to_server(  # type: ignore[no-untyped-call]
            sessions, server
        )
        events_pb2_grpc.add_EventsServiceServicer_to_server(  # type: ignore[no-untyped-call]
            events, server
        )
        transfer_pb2_grpc.add_TransferServiceServicer_to_server(  # type: ignore[no-untyped-call]
            transfers, server
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(  # type: ignore[no-untyped-call]
            control, server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace=0.2)
