"""GET /v1/baton/requests and /v1/baton/requests/{id}: what became of a call, and why."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams

from baton.core.errors import InvalidRequestError, NotFoundError
from baton.gateway.context import Context
from baton.gateway.http.exchange import Exchange
from baton.gateway.records import explain

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


async def newest(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/requests: the newest of this gateway. Raises InvalidRequestError."""
    query = QueryParams(exchange.scope["query_string"])
    records = context.records.newest(
        _limit(query.get("limit", str(DEFAULT_LIMIT))),
        slow=_flag(query, "slow"),
        failed=_flag(query, "failed"),
    )
    return 200, {"object": "list", "data": [explain.summary(record) for record in records]}


async def one(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/requests/{id}. Raises NotFoundError, StoreUnavailableError."""
    name: str = exchange.scope["path_params"]["id"]
    found = await context.records.document(name)
    if found is None:
        raise NotFoundError(
            f"No request {name[:200]!r} is known (any more). Gateways remember their newest "
            "requests, see the settings under `records`."
        )
    return 200, found


def _flag(query: QueryParams, name: str) -> bool:
    value = _FLAGS.get(query.get(name, "").lower())
    if value is None:
        raise InvalidRequestError(f"Invalid '{name}': expected 1 or 0.", param=name)
    return value


def _limit(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_LIMIT:
        raise InvalidRequestError(
            f"Invalid 'limit': expected 1 to {MAX_LIMIT}, got {value[:32]!r}.", param="limit"
        )
    return int(value)
