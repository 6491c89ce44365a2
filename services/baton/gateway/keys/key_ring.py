"""The API keys that a gateway knows: all of the store's, kept by a watch.

A key that is made or revoked is known within the time that a watch takes, mostly milliseconds.
Without the store, what is known stays valid. So do keys that the store lost (it came back empty,
say), until the gateway restarts: only a revocation, a deletion or its own expiry ends a key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from baton.core import api_key
from baton.core.errors import InvalidKeyError
from baton.gateway.keys.caller import Bound, Caller, Counted
from baton.gateway.keys.stored import (
    AUTH_PREFIX,
    KEY_PREFIX,
    TENANT_PREFIX,
    KeyLimits,
    KeyRecord,
    TenantRecord,
)
from baton.store.base import Store, WatchEvent
from baton.store.limits import Limit, LimitKind
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

MINUTE_MS = 60_000
# A slot of a gateway that was killed comes back after so long.
SLOT_LEASE_MS = 30_000
_DAY_MS = 86_400_000
# A little longer than the period, so that it is over when the count is forgotten.
_PERIOD_MS = {"total": 0, "month": 32 * _DAY_MS, "day": 2 * _DAY_MS}
_NO_KEY = bytes(32)
_WRONG = (
    "Incorrect API key provided. Keys of this service begin with 'sk-baton-'; `baton keys list` "
    "shows which there are."
)


@dataclass(frozen=True, slots=True)
class _Key:
    record: KeyRecord
    digest: bytes
    caller: Caller


class KeyRing:
    """`start` it on the loop that uses it, `close` it there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[str, _Key] = {}
        self._tenants: dict[str, TenantRecord] = {}
        self._task: asyncio.Task[None] | None = None
        # All keys of the store have been seen once.
        self.synced = asyncio.Event()

    def __len__(self) -> int:
        """Keys, revoked and expired ones too."""
        return len(self._keys)

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def caller(self, key: bytes) -> Caller:
        """Whose key it is. Raises InvalidKeyError, which never repeats the key."""
        key_id = api_key.key_id(key)
        known = self._keys.get(key_id) if key_id is not None else None
        if not api_key.matches(key, _NO_KEY if known is None else known.digest) or known is None:
            raise InvalidKeyError(_WRONG)
        if known.record.revoked is not None:
            raise InvalidKeyError(f"The API key {key_id} was revoked.")
        if known.caller.expires is not None and known.caller.expires <= time.time():
            raise InvalidKeyError(f"The API key {key_id} has expired.")
        return known.caller

    async def _follow(self) -> None:
        changes: Any = self._store.watch(AUTH_PREFIX)
        async with aclosing(changes):
            async for change in changes:
                self._apply(change)

    def _apply(self, change: WatchEvent) -> None:
        if change.kind == "synced":
            self.synced.set()
        elif change.kind == "put":
            try:
                self._put(change.key, change.value)
            except ValidationError as error:
                # The old record, if there is one, stays: only its value is doubtful.
                log.warning(*event("bad_key_record", key=change.key, problems=error.error_count()))
        elif change.kind == "expired":
            log.warning(*event("key_record_vanished", key=change.key))
        elif change.key.startswith(KEY_PREFIX):
            self._keys.pop(change.key.removeprefix(KEY_PREFIX), None)

    def _put(self, key: str, value: bytes) -> None:
        if key.startswith(KEY_PREFIX):
            record = KeyRecord.model_validate_json(value)
            self._keys[key.removeprefix(KEY_PREFIX)] = self._known(record)
        elif key.startswith(TENANT_PREFIX):
            tenant = TenantRecord.model_validate_json(value)
            self._tenants[tenant.name] = tenant
            for name, known in self._keys.items():
                if known.record.tenant == tenant.name:
                    self._keys[name] = self._known(known.record)

    def _known(self, record: KeyRecord) -> _Key:
        tenant = self._tenants.get(record.tenant)
        bounds = key_bounds(record)
        if tenant is not None:
            bounds += tenant_bounds(tenant)
        caller = Caller(
            key_id=record.id,
            tenant=record.tenant,
            # Until the tenant's record is seen, which was written before the key's.
            salt=record.tenant if tenant is None else tenant.salt,
            scopes=record.scopes,
            expires=record.expires,
            bounds=bounds,
        )
        return _Key(record, bytes.fromhex(record.digest), caller)


def key_bounds(record: KeyRecord) -> tuple[Bound, ...]:
    """The limits that a key has of its own."""
    return _bounds(f"key/{record.id}", f"API key {record.id}", record.limits)


def tenant_bounds(tenant: TenantRecord) -> tuple[Bound, ...]:
    """The limits that all keys of a tenant share."""
    return _bounds(f"tenant/{tenant.name}", f"tenant {tenant.name}", tenant.limits)


def _bounds(name: str, whose: str, limits: KeyLimits) -> tuple[Bound, ...]:
    period = limits.budget_period
    kinds = (
        ("rpm", LimitKind.RATE, limits.rpm, MINUTE_MS, Counted.REQUESTS, ""),
        ("tpm", LimitKind.RATE, limits.tpm, MINUTE_MS, Counted.TOKENS, ""),
        ("slots", LimitKind.SLOTS, limits.concurrent, SLOT_LEASE_MS, Counted.CONCURRENT, ""),
        ("budget", LimitKind.TOTAL, limits.budget, _PERIOD_MS[period], Counted.BUDGET, period),
    )
    return tuple(
        Bound(Limit(f"{name}/{suffix}", kind, bound, window_ms), counted, whose, when)
        for suffix, kind, bound, window_ms, counted, when in kinds
        if bound is not None
    )
