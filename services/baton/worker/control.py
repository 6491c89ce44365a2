"""Steering one worker: drain and undrain."""

from __future__ import annotations

import logging
from collections.abc import Callable

from baton.core.errors import UnavailableError
from baton.telemetry.logging import event
from baton.v1 import worker_pb2
from baton.wire.streams.status import Code, StreamError

log = logging.getLogger(__name__)


class WorkerControl:
    """WorkerService. The callables return at once; `undrain` may raise UnavailableError.

    `drain(within_s)`, 0 for no hurry, says how many submissions are here.
    """

    def __init__(
        self,
        drain: Callable[[float], int],
        undrain: Callable[[], None],
    ) -> None:
        self._drain = drain
        self._undrain = undrain

    def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Take no new work, and ask the gateways to move what runs."""
        num_running = self._drain(request.within_ms / 1000)
        log.warning(
            *event(
                "drain_asked",
                reason=request.reason,
                within_s=request.within_ms / 1000,
                running=num_running,
            )
        )
        return worker_pb2.DrainResponse(num_running=num_running)

    def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """Take work again."""
        try:
            self._undrain()
        except UnavailableError as error:
            raise StreamError(Code.FAILED_PRECONDITION, error.message) from error
        log.warning(*event("drain_undone"))
        return worker_pb2.UndrainResponse()
