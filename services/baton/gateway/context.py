"""What the APIs of one gateway share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from baton.core.errors import InvalidRequestError, ModelNotFoundError
from baton.core.settings import GatewaySettings
from baton.gateway.answer.base import OpenAnswers
from baton.gateway.answer.call_metrics import ModelMetrics
from baton.gateway.api.kept_responses import KeptResponses
from baton.gateway.api.prepare import ServedModel
from baton.gateway.generation import Generator
from baton.gateway.hints import Prefetcher
from baton.gateway.http.flushes import Flushes
from baton.gateway.keys.access import Access
from baton.gateway.operations import Operations
from baton.gateway.queue.priority_classes import Priorities
from baton.gateway.records.record_book import RecordBook
from baton.telemetry.metrics import Metrics

NO_MODEL = "unknown"
"""Label of calls that failed before a served model was known."""


@dataclass(slots=True)
class Context:
    """`not_ready` says why no request should be sent here yet, or None; `shortage` why one for a
    model would have to wait, or None. `workers` lists the live ones as JSON.
    """

    models: Mapping[str, ServedModel]
    generator: Generator
    prefetcher: Prefetcher
    settings: GatewaySettings
    metrics: Metrics
    not_ready: Callable[[], str | None]
    shortage: Callable[[str], str | None]
    workers: Callable[[], list[dict[str, Any]]]
    records: RecordBook
    answers: OpenAnswers
    responses: KeptResponses
    operations: Operations
    # It is told to stop: it still serves, and wants to be sent nothing more.
    is_leaving: bool = False
    # None where nobody is asked for an API key.
    access: Access | None = None
    flushes: Flushes = field(default_factory=Flushes)
    # The metrics of all processes on the port, where there are several.
    render_metrics: Callable[[], Awaitable[bytes]] | None = None
    priorities: Priorities = field(init=False)
    _series: dict[tuple[str, str], ModelMetrics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.priorities = Priorities(self.settings.priorities)

    def unready(self) -> str | None:
        """Why nobody should send requests here, or None."""
        return "the gateway is leaving" if self.is_leaving else self.not_ready()

    def model(self, name: str | None) -> ServedModel:
        """None is the only one there is. Raises ModelNotFoundError, which says what there is."""
        if name is None:
            if len(self.models) != 1:
                raise InvalidRequestError("You must provide a 'model' parameter.", param="model")
            return next(iter(self.models.values()))
        model = self.models.get(name)
        if model is None:
            raise ModelNotFoundError(
                f"The model '{name[:128]}' does not exist. Served here: "
                f"{', '.join(sorted(self.models))}.",
                param="model",
            )
        return model

    def series(self, model: str, api: str) -> ModelMetrics:
        """Metrics of a served model (or NO_MODEL) and API."""
        found = self._series.get((model, api))
        if found is None:
            found = self._series[model, api] = ModelMetrics(
                self.metrics, model, api, self.operations.recent
            )
        return found


ContextSource = Callable[[], Context]
"""Gives the context of a running app; raises UnavailableError before its start."""
