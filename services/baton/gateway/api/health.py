"""The views that only look: health, readiness, metrics, models, workers."""

from __future__ import annotations

from typing import Any

from baton.gateway.api.prepare import ServedModel
from baton.gateway.api.schemas import ModelCard, ModelList
from baton.gateway.context import Context
from baton.gateway.http.exchange import Exchange


async def health(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /health: the process answers."""
    return 200, {"status": "ok"}


async def ready(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /ready: requests should be sent here, if only to wait for workers (see `shortages`)."""
    shortages = {name: reason for name in context.models if (reason := context.shortage(name))}
    reason = context.unready()
    if reason is None:
        return 200, {"status": "ready", "shortages": shortages}
    return 503, {"status": "not ready", "reason": reason, "shortages": shortages}


async def metrics(context: Context, _: Exchange) -> tuple[int, bytes]:
    """GET /metrics, in Prometheus' text format."""
    render = context.render_metrics
    return 200, context.metrics.render() if render is None else await render()


async def models(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /v1/models"""
    found: ModelList = {"object": "list", "data": [_card(m) for m in context.models.values()]}
    return 200, found


async def model(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """GET /v1/models/{model}"""
    return 200, _card(context.model(exchange.scope["path_params"]["model"]))


async def workers(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/workers"""
    return 200, {"object": "list", "data": context.workers()}


def _card(served: ServedModel) -> ModelCard:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "baton",
        "max_model_len": served.context_length,
    }
