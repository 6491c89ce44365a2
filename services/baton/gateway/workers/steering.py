"""Drain and undrain a worker that the gateway has a session with."""

from __future__ import annotations

from typing import Protocol

from baton.core.errors import UnavailableError
from baton.gateway.workers.session import WorkerSession
from baton.v1 import worker_pb2
from baton.wire.steering import drain_request
from baton.wire.streams.methods import DRAIN, UNDRAIN, Method
from baton.wire.streams.status import Code, StreamError
from baton.wire.streams.stream import In, Out

# A worker answers at once or not at all.
TIMEOUT_S = 5.0


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
    answer = await _ask(session, DRAIN, drain_request(reason, within_s))
    return answer.num_running


async def undrain(session: WorkerSession) -> None:
    """See Steering."""
    await _ask(session, UNDRAIN, worker_pb2.UndrainRequest())


async def _ask(session: WorkerSession, method: Method[Out, In], request: Out) -> In:
    worker_id = session.worker.worker_id
    try:
        return await session.ask(method, request, TIMEOUT_S)
    except StreamError as error:
        if error.code is Code.FAILED_PRECONDITION:
            raise UnavailableError(f"worker {worker_id}: {error.details}") from error
        # Not its details: they have addresses.
        raise UnavailableError(f"worker {worker_id} does not answer ({error.code.name})") from error
