"""Making, listing and revoking API keys, in the store; what `baton keys` and the API do alike."""

from __future__ import annotations

import secrets
import time
from typing import Any

import orjson
from pydantic import ValidationError

from baton.core import api_key
from baton.core.api_key import Scope
from baton.core.errors import InvalidRequestError, UnavailableError, UnknownKeyError
from baton.gateway.keys.stored import (
    KEY_PREFIX,
    KeyLimits,
    KeyRecord,
    TenantRecord,
    checked_tenant,
    problem,
)
from baton.store.base import Store

# Two writers of one record in a row.
_TRIES = 5


async def create_key(
    store: Store,
    *,
    name: str,
    tenant: str,
    scopes: frozenset[Scope],
    limits: KeyLimits,
    expires: float | None,
    created_by: str,
) -> tuple[str, KeyRecord]:
    """The key, which nobody can show again, and its record. Raises InvalidRequestError."""
    new = api_key.draw_key()
    try:
        record = KeyRecord(
            id=new.id,
            digest=new.digest,
            name=name,
            tenant=tenant,
            scopes=scopes,
            limits=limits,
            created=round(time.time(), 3),
            created_by=created_by,
            expires=expires,
        )
    except ValidationError as error:
        raise problem(error) from None
    # First, so that no gateway sees a key whose tenant it does not know.
    await tenant_record(store, tenant)
    await store.put(record.store_key, record.model_dump_json().encode())
    return new.key, record


async def list_keys(store: Store) -> list[KeyRecord]:
    """All of them, the oldest first. Records that cannot be read are left out."""
    found = []
    for value in (await store.list(KEY_PREFIX)).values():
        try:
            found.append(KeyRecord.model_validate_json(value))
        except ValidationError:
            continue
    return sorted(found, key=lambda record: (record.created, record.id))


async def revoke_key(store: Store, key_id: str, revoked_by: str) -> KeyRecord:
    """The record, revoked now or before. Raises UnknownKeyError.

    The record stays, for lists; gateways refuse the key as soon as they see it.
    """
    where = KEY_PREFIX + key_id
    for _ in range(_TRIES):
        value = await store.get(where) if api_key.is_id(key_id) else None
        if value is None:
            raise UnknownKeyError(f"there is no API key {key_id[:64]!r}; see `baton keys list`")
        record = KeyRecord.model_validate_json(value)
        if record.revoked is not None:
            return record
        # Fields that a newer version wrote stay.
        document = orjson.loads(value)
        document |= {"revoked": round(time.time(), 3), "revoked_by": revoked_by}
        new = orjson.dumps(document)
        if await store.claim(where, new, None, replaces=value) is None:
            return KeyRecord.model_validate_json(new)
    raise UnavailableError(f"the record of API key {key_id} changes all the time; try again")


async def tenant_record(store: Store, name: str) -> TenantRecord:
    """The tenant's record, made when it has none. Raises InvalidRequestError for its name."""
    try:
        checked_tenant(name)
    except ValueError as error:
        raise InvalidRequestError(f"tenant: {error}", param="tenant") from None
    record = TenantRecord(name=name, salt=secrets.token_hex(16))
    known = await store.claim(record.store_key, record.model_dump_json().encode(), None)
    return record if known is None else TenantRecord.model_validate_json(known)


async def change_tenant(store: Store, name: str, limits: dict[str, Any]) -> TenantRecord:
    """Set what is given of a tenant's limits (None takes one away); the rest stays."""
    for _ in range(_TRIES):
        record = await tenant_record(store, name)
        old = await store.get(record.store_key)
        if old is None:
            continue
        document = orjson.loads(old)
        document["limits"] = document.get("limits", {}) | limits
        new = orjson.dumps(document)
        try:
            changed = TenantRecord.model_validate_json(new)
        except ValidationError as error:
            raise problem(error) from None
        if await store.claim(record.store_key, new, None, replaces=old) is None:
            return changed
    raise UnavailableError(f"the record of tenant {name} changes all the time; try again")


def key_document(record: KeyRecord, now: float) -> dict[str, Any]:
    """A key as JSON for people and programs: everything but its digest."""
    document = record.model_dump(mode="json", exclude={"digest"})
    document["scopes"] = sorted(document["scopes"])
    return {**document, "state": record.state(now)}


def tenant_document(record: TenantRecord) -> dict[str, Any]:
    """A tenant as JSON: everything but its salt."""
    return record.model_dump(mode="json", exclude={"salt"})
