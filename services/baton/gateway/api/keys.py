"""/v1/baton/keys: list, make and revoke API keys over HTTP, for those whose key has scope admin.

Only where keys are asked for: otherwise whoever reaches the gateway could lock everybody else out.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field

from baton.core import api_key
from baton.core.errors import ForbiddenError
from baton.gateway.answer.lifecycle import Intake
from baton.gateway.api.bodies import Body
from baton.gateway.api.json_post import JsonPost
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.exchange import Exchange
from baton.gateway.keys.access import Access, audit_call, audited
from baton.gateway.keys.admin import create_key, key_document, list_keys, revoke_key
from baton.gateway.keys.caller import caller_of
from baton.gateway.keys.stored import DEFAULT_TENANT, KeyLimits

# Of an expiry: still a date that the record can hold.
_MAX_EXPIRES_IN_S = 1e10


class NewKeyBody(Body):
    """POST /v1/baton/keys."""

    name: str = ""
    """For people."""
    tenant: str = DEFAULT_TENANT
    """Whose it is."""
    scopes: frozenset[api_key.Scope] = Field(frozenset({api_key.Scope.INFERENCE}), min_length=1)
    """What it may be used for."""
    limits: KeyLimits = KeyLimits()
    """Of this key; a tenant's are set with `baton keys tenant`."""
    expires_in_s: float | None = Field(None, gt=0, le=_MAX_EXPIRES_IN_S)
    """Seconds for which it is valid; by default until it is revoked."""


class NewKey(JsonPost[NewKeyBody]):
    """POST /v1/baton/keys"""

    api = "keys"
    body = NewKeyBody
    needs = api_key.Scope.ADMIN
    status = 201

    async def serve(self, context: Context, exchange: Exchange) -> None:
        with audited(exchange.scope):
            _asking(context)
            await super().serve(context, exchange)

    async def answer(self, call: Intake, body: NewKeyBody, at: Arrival, exchange: Exchange) -> Any:
        """The new key and what is known of it; nobody can have the key once more."""
        now = time.time()
        key, record = await create_key(
            _asking(call.context).store,
            name=body.name,
            tenant=body.tenant,
            scopes=body.scopes,
            limits=body.limits,
            expires=None if body.expires_in_s is None else now + body.expires_in_s,
            created_by=at.caller.key_id,
        )
        audit_call(exchange.scope, "ok", record.id)
        return {**key_document(record, now), "key": key}


async def listed(context: Context, _: Exchange) -> tuple[int, Any]:
    """GET /v1/baton/keys"""
    now = time.time()
    records = await list_keys(_asking(context).store)
    return 200, {"object": "list", "data": [key_document(record, now) for record in records]}


async def revoked(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """DELETE /v1/baton/keys/{id}"""
    scope = exchange.scope
    with audited(scope):
        store = _asking(context).store
        record = await revoke_key(store, scope["path_params"]["id"], caller_of(scope).key_id)
        audit_call(scope, "ok", record.id)
        return 200, key_document(record, time.time())


def _asking(context: Context) -> Access:
    """The keys. Raises ForbiddenError where none are asked for."""
    access = context.access
    if access is None or not access.auth.is_on:
        raise ForbiddenError(
            "This gateway does not ask for API keys, so they are managed with `baton keys` "
            "only; start it with --auth keys."
        )
    return access
