"""Drain and undrain a worker, over the channel that the gateway's session with it has."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

import grpc

from baton.core.errors import UnavailableError
from baton.gateway.workers.session import WorkerSession
from baton.v1 import worker_pb2, worker_pb2_grpc

T = TypeVar("T")

# A worker answers at once or not at all.
TIMEOUT_S = 5.0
_MAX_MS = 2**32 - 1


class Steering(Protocol):
    """Workers by id. Raises NotFoundError for an unknown one, UnavailableError for one that does
    not answer, or refuses.
    """

    async def drain(self, worker_id: str, within_s: float, reason: str) -> int:
        """It takes no new work, and what runs is moved; returns the submissions still there.

        `within_s`: its machine goes away then; 0: no hurry. Doing it again changes nothing.
        """

    async def undrain(self, worker_id: str) -> None:
        """It takes work again, unless its process is about to end."""


async def drain(session: WorkerSession, within_s: float, reason: str) -> int:
    """See Steering."""
    within_ms = min(_MAX_MS, int(within_s * 1000))
    request = worker_pb2.DrainRequest(reason=reason, within_ms=within_ms)
    answer = await _answer(session, _stub(session).Drain(request, timeout=TIMEOUT_S))
    return int(answer.num_running)


async def undrain(session: WorkerSession) -> None:
    """See Steering."""
    request = worker_pb2.UndrainRequest()
    await _answer(session, _stub(session).Undrain(request, timeout=TIMEOUT_S))


def _stub(session: WorkerSession) -> Any:
    if session.channel is None:
        raise UnavailableError(f"worker {session.worker.worker_id} is not connected")
    return worker_pb2_grpc.WorkerServiceStub(session.channel)  # type: ignore[no-untyped-call]


async def _answer(session: WorkerSession, call: Awaitable[T]) -> T:
    worker_id = session.worker.worker_id
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            raise UnavailableError(f"worker {worker_id}: {error.details()}") from error
        # Not its details: they have addresses.
        raise UnavailableError(
            f"worker {worker_id} does not answer ({error.code().name})"
        ) from error
    except grpc.aio.UsageError as error:
        raise UnavailableError(f"worker {worker_id} is not connected") from error
