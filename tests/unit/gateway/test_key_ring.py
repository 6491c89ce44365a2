"""The keys that a gateway knows, against a real store."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from baton.core.api_key import Scope, draw_key
from baton.core.errors import InvalidKeyError, InvalidRequestError, UnknownKeyError
from baton.gateway.keys.admin import (
    change_tenant,
    create_key,
    key_document,
    list_keys,
    revoke_key,
    tenant_document,
    tenant_record,
)
from baton.gateway.keys.caller import Caller
from baton.gateway.keys.key_ring import KeyRing
from baton.gateway.keys.stored import KeyLimits, KeyRecord
from baton.store.base import Store
from fakes.until import until
from suites.embedded_backend import EmbeddedBackend
from suites.store_tools import logged, when_up


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


@asynccontextmanager
async def ring(store: Store) -> AsyncIterator[KeyRing]:
    keys = KeyRing(store)
    keys.start()
    try:
        yield keys
    finally:
        await keys.close()


async def create(
    store: Store, tenant: str = "acme", expires: float | None = None, **limits: int
) -> tuple[bytes, KeyRecord]:
    key, record = await create_key(
        store,
        name="a key",
        tenant=tenant,
        scopes=frozenset({Scope.INFERENCE}),
        limits=KeyLimits(**limits),
        expires=expires,
        created_by="test",
    )
    return key.encode(), record


def find(keys: KeyRing, key: bytes) -> Caller | None:
    try:
        return keys.caller(key)
    except InvalidKeyError:
        return None


async def test_keys_made_before_and_after_the_start_are_known(backend: EmbeddedBackend) -> None:
    store = backend.open()
    early, record = await create(store)
    async with ring(backend.open()) as keys:
        await keys.synced.wait()
        caller = keys.caller(early)
        assert (caller.key_id, caller.tenant) == (record.id, "acme")
        late, _ = await create(store)
        await until(lambda: find(keys, late) is not None)


async def test_a_revoked_key_is_refused_and_stays_in_the_list(backend: EmbeddedBackend) -> None:
    store = backend.open()
    key, record = await create(store)
    async with ring(store) as keys:
        await keys.synced.wait()
        keys.caller(key)
        await revoke_key(store, record.id, "me")
        await until(lambda: find(keys, key) is None)
        with pytest.raises(InvalidKeyError, match=f"{record.id} was revoked"):
            keys.caller(key)
    (listed,) = await list_keys(store)
    assert listed.state(time.time()) == "revoked" and listed.revoked_by == "me"
    # Again is no change.
    assert await revoke_key(store, record.id, "other") == listed


async def test_an_expired_key_is_refused(backend: EmbeddedBackend) -> None:
    store = backend.open()
    key, _ = await create(store, expires=time.time() - 1)
    async with ring(store) as keys:
        await keys.synced.wait()
        with pytest.raises(InvalidKeyError, match="has expired"):
            keys.caller(key)


async def test_refusals_never_repeat_the_key(backend: EmbeddedBackend) -> None:
    store = backend.open()
    known, record = await create(store)
    await revoke_key(store, record.id, "me")
    unknown = draw_key().key.encode()
    wrong = known[:-1] + (b"A" if known[-1:] != b"A" else b"B")
    async with ring(store) as keys:
        await keys.synced.wait()
        for key in (known, unknown, wrong, b"hunter2", b"", b"\xff\xfe"):
            with pytest.raises(InvalidKeyError) as caught:
                keys.caller(key)
            # All of it: it may have dashes of its own, and what follows the last be one letter.
            secret = key.decode(errors="replace").split("-", 3)[-1]
            assert not secret or secret not in caught.value.message


async def test_known_keys_outlive_the_store_and_what_it_held(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = backend.open()
    key, _ = await create(store)
    async with ring(store) as keys:
        await keys.synced.wait()
        await backend.stop()
        assert find(keys, key) is not None
        await backend.start()
        await when_up(store)
        await until(lambda: "key_record_vanished" in logged(caplog))
        assert find(keys, key) is not None
        # Back to normal: others are found, and revoked.
        other, record = await create(store)
        await until(lambda: find(keys, other) is not None)
        await revoke_key(store, record.id, "me")
        await until(lambda: find(keys, other) is None)


async def test_a_deleted_key_is_refused(backend: EmbeddedBackend) -> None:
    store = backend.open()
    key, record = await create(store)
    async with ring(store) as keys:
        await keys.synced.wait()
        await store.delete(record.store_key)
        await until(lambda: find(keys, key) is None)


async def test_records_that_cannot_be_read_change_nothing(
    backend: EmbeddedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "baton")
    store = backend.open()
    key, record = await create(store)
    async with ring(store) as keys:
        await keys.synced.wait()
        await store.put(record.store_key, b'{"id": 5}')
        await store.put("auth/keys/odd", b"\xff")
        await store.put("auth/tenants/acme", b"[]")
        await until(lambda: logged(caplog).count("bad_key_record") == 3)
        assert find(keys, key) is not None
    assert await list_keys(store) == []


async def test_fields_of_a_newer_version_are_kept(backend: EmbeddedBackend) -> None:
    store = backend.open()
    key, record = await create(store)
    newer = record.model_dump_json()[:-1] + ',"flavour":"mint"}'
    await store.put(record.store_key, newer.encode())
    async with ring(store) as keys:
        await keys.synced.wait()
        assert find(keys, key) is not None
    await revoke_key(store, record.id, "me")
    assert b"mint" in (await store.get(record.store_key) or b"")


async def test_tenants_have_a_salt_of_their_own_for_ever(backend: EmbeddedBackend) -> None:
    store = backend.open()
    (a1, _), (a2, _), (b, _) = await create(store), await create(store), await create(store, "b")
    await change_tenant(store, "acme", {"rpm": 5})
    async with ring(store) as keys:
        await keys.synced.wait()
        salts = {key: keys.caller(key).tenant_salt("") for key in (a1, a2, b)}
        assert salts[a1] == salts[a2] != salts[b]
        assert (await tenant_record(store, "acme")).salt == salts[a1]
        assert keys.caller(a1).tenant_salt("mine") != keys.caller(a1).tenant_salt("")
        assert keys.caller(b).tenant_salt("x") not in (salts[a1], salts[b], "x")


async def test_a_tenants_limits_reach_its_keys_when_they_change(backend: EmbeddedBackend) -> None:
    store = backend.open()
    key, record = await create(store, rpm=10)
    async with ring(store) as keys:
        await keys.synced.wait()
        assert [b.limit.name for b in keys.caller(key).bounds] == [f"key/{record.id}/rpm"]
        await change_tenant(store, "acme", {"tpm": 1000, "budget": 5, "budget_period": "day"})
        await until(lambda: len(keys.caller(key).bounds) == 3)
        await change_tenant(store, "acme", {"tpm": None})
        await until(lambda: len(keys.caller(key).bounds) == 2)
        assert keys.caller(key).bounds[1].period == "day"


async def test_what_is_shown_of_keys_and_tenants_holds_no_secret(backend: EmbeddedBackend) -> None:
    store = backend.open()
    _, record = await create(store)
    tenant = await tenant_record(store, "acme")
    assert record.digest not in str(key_document(record, time.time()))
    assert tenant.salt not in str(tenant_document(tenant))


async def test_wrong_names_and_unknown_keys_are_said(backend: EmbeddedBackend) -> None:
    store = backend.open()
    for tenant in ("", "a b", "../x", "-a", "x" * 65):
        with pytest.raises(InvalidRequestError, match="tenant"):
            await create(store, tenant)
    for key_id in ("nobody", "", "../tenants/acme", "a" * 2000):
        with pytest.raises(UnknownKeyError):
            await revoke_key(store, key_id, "me")
    assert await store.list("auth/") == {}
