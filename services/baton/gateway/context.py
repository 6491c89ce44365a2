"""What the APIs of one gateway share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from baton.core.errors import ModelNotFoundError
from baton.core.settings import GatewaySettings
from baton.gateway.answer import OpenAnswers
from baton.gateway.call_metrics import ModelMetrics
from baton.gateway.generation import Generator
from baton.gateway.hints import Prefetcher
from baton.gateway.prepare import ServedModel
from baton.telemetry.metrics import Metrics

NO_MODEL = "unknown"
"""Label of calls that failed before a served model was known."""


@dataclass(slots=True)
class Context:
    """`not_ready` says why no request could be served now, or None; `workers` lists the live ones,
    as JSON.
    """

    models: Mapping[str, ServedModel]
    generator: Generator
    prefetcher: Prefetcher
    settings: GatewaySettings
    metrics: Metrics
    not_ready: Callable[[], str | None]
    workers: Callable[[], list[dict[str, Any]]]
    answers: OpenAnswers = field(default_factory=OpenAnswers)
    _series: dict[tuple[str, str], ModelMetrics] = field(default_factory=dict)

    def model(self, name: str) -> ServedModel:
        """Raises ModelNotFoundError, which says what there is."""
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
            found = self._series[model, api] = ModelMetrics(self.metrics, model, api)
        return found


ContextSource = Callable[[], Context]
"""Gives the context of a running app; raises UnavailableError before its start."""
