"""/v1/baton/status, /v1/baton/traffic, /v1/baton/workers/{id}/drain and undrain: for operators."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from baton.core import api_key
from baton.core.errors import InvalidRequestError
from baton.gateway.answer.lifecycle import Intake
from baton.gateway.api.bodies import Body
from baton.gateway.api.json_post import JsonPost
from baton.gateway.api.post import B
from baton.gateway.context import Context, ContextSource
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.exchange import Exchange
from baton.gateway.http.view import View
from baton.gateway.keys.access import audit_call, audited
from baton.gateway.recent import quantile
from baton.gateway.traffic import Weights

DEFAULT_QUANTILE = 0.95


class DrainBody(Body):
    """POST /v1/baton/workers/{id}/drain."""

    within_s: float = Field(0.0, ge=0, le=86400)
    """The worker's machine goes away in so many seconds; 0: no hurry."""
    reason: str = Field("", max_length=200)
    """For people: in logs and listings."""


class UndrainBody(Body):
    """POST /v1/baton/workers/{id}/undrain."""


class TrafficBody(Body):
    """PUT /v1/baton/traffic."""

    weights: Weights
    """Of new requests, by revision; empty: ready capacity decides."""
    ttl_s: float | None = Field(None, gt=0, le=366 * 86400)
    """Seconds until they are forgotten; by default they stay."""


class _Change(JsonPost[B]):
    """A change that only an operator may make; it is audited."""

    needs = api_key.Scope.ADMIN
    default = b"{}"

    async def serve(self, context: Context, exchange: Exchange) -> None:
        with audited(exchange.scope):
            await super().serve(context, exchange)
        audit_call(exchange.scope, "ok")


class Drain(_Change[DrainBody]):
    """POST /v1/baton/workers/{id}/drain"""

    api = "drain"
    body = DrainBody

    async def answer(self, call: Intake, body: DrainBody, at: Arrival, exchange: Exchange) -> Any:
        """What still runs there."""
        worker_id = _worker_id(exchange)
        steering = call.context.operations.steering
        num_running = await steering.drain(worker_id, body.within_s, body.reason)
        return {"id": worker_id, "draining": True, "num_running": num_running}


class Undrain(_Change[UndrainBody]):
    """POST /v1/baton/workers/{id}/undrain"""

    api = "undrain"
    body = UndrainBody

    async def answer(self, call: Intake, body: UndrainBody, at: Arrival, exchange: Exchange) -> Any:
        worker_id = _worker_id(exchange)
        await call.context.operations.steering.undrain(worker_id)
        return {"id": worker_id, "draining": False}


class SetTraffic(_Change[TrafficBody]):
    """PUT /v1/baton/traffic"""

    api = "traffic"
    body = TrafficBody

    def check(self, body: TrafficBody) -> None:
        if body.weights and not any(body.weights.values()):
            raise InvalidRequestError(
                "Invalid 'weights': at least one must be above 0; {} lets capacity decide.",
                param="weights",
            )

    async def answer(self, call: Intake, body: TrafficBody, at: Arrival, exchange: Exchange) -> Any:
        await call.context.operations.traffic.set(body.weights, body.ttl_s)
        return _traffic(call.context)


class TrafficApp:
    """GET and PUT /v1/baton/traffic"""

    def __init__(self, context: ContextSource) -> None:
        self._view = View(context, traffic)
        self._set = SetTraffic(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._set if scope["method"] == "PUT" else self._view)(scope, receive, send)


async def traffic(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/traffic: the weights that are set, and the shares that revisions get now."""
    return 200, _traffic(context)


async def status(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/status. Raises InvalidRequestError."""
    share = _quantile(QueryParams(exchange.scope["query_string"]))
    operations = context.operations
    times, num_processes = await operations.times()
    slo = {
        "ttft_s": _rounded(quantile(times.ttft, share)),
        "tpot_s": _rounded(quantile(times.tpot, share)),
        "quantile": share,
        "window_s": operations.recent.window_s,
        "requests": times.requests,
        "errors": times.errors,
        "processes": num_processes,
    }
    split = _traffic(context)
    return 200, {
        "slo": slo,
        "revisions": split["shares"],
        "traffic": split["weights"],
        "workers": context.workers(),
    }


def _traffic(context: Context) -> dict[str, Any]:
    operations = context.operations
    shares: dict[str, float] = {}
    for model in context.models:
        shares |= operations.traffic.shares(model)
    return {"weights": dict(operations.traffic.weights), "shares": shares}


def _worker_id(exchange: Exchange) -> str:
    worker_id: str = exchange.scope["path_params"]["id"]
    return worker_id


def _quantile(query: QueryParams) -> float:
    text = query.get("quantile", str(DEFAULT_QUANTILE))
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise InvalidRequestError(
            f"Invalid 'quantile': expected a number between 0 and 1, got {text[:32]!r}.",
            param="quantile",
        )
    return found


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
