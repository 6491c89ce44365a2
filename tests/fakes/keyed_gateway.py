"""The gateway's APIs around a fake generator, asking for keys that a real store has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from baton.core.api_key import Scope
from baton.core.settings import GatewaySettings
from baton.gateway.context import Context
from baton.gateway.keys.access import open_access
from baton.gateway.keys.admin import change_tenant, create_key
from baton.gateway.keys.stored import KeyLimits, KeyRecord
from baton.store.base import Store
from fakes.gateway import make_context
from fakes.generator import FakeGenerator
from fakes.until import until


@asynccontextmanager
async def keyed_context(
    store: Store, generator: FakeGenerator, **settings: Any
) -> AsyncIterator[Context]:
    """`settings` are the gateway's; keys are asked for unless they say otherwise."""
    gateway = GatewaySettings(**{"auth": "keys", **settings})
    context = make_context(generator, gateway)
    async with open_access(store, gateway, context.metrics) as context.access:
        if context.access is not None:
            access = context.access
            await until(lambda: access.auth.shortage() is None)
        yield context


async def make_key(
    context: Context,
    *scopes: Scope,
    tenant: str = "acme",
    expires: float | None = None,
    **limits: Any,
) -> tuple[str, KeyRecord]:
    """A key that the gateway knows already."""
    assert context.access is not None
    key, record = await create_key(
        context.access.store,
        name="",
        tenant=tenant,
        scopes=frozenset(scopes or (Scope.INFERENCE,)),
        limits=KeyLimits(**limits),
        expires=expires,
        created_by="test",
    )
    await known(context, key)
    return key, record


async def limit_tenant(context: Context, key: str, tenant: str, **limits: Any) -> None:
    """Limits of a tenant, once the gateway has them on its `key`."""
    assert context.access is not None
    await change_tenant(context.access.store, tenant, limits)
    await until(lambda: any(b.whose == f"tenant {tenant}" for b in caller(context, key).bounds))


def caller(context: Context, key: str) -> Any:
    """Whose the key is; raises what the gateway would."""
    assert context.access is not None
    return context.access.auth.identify([(b"x-api-key", key.encode())])


async def known(context: Context, key: str) -> None:
    """Wait until the gateway knows a key."""

    def is_known() -> bool:
        try:
            caller(context, key)
        except Exception as error:
            return "expired" in str(error)
        return True

    await until(is_known)
