"""What every store must do. Test modules subclass `StoreSuite` and give it a `backend` fixture."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from baton.store.base import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    StoreUnavailableError,
    WatchEvent,
)
from suites.store_tools import PATIENCE_S, Backend, follow, logged, watching, when_up


class StoreSuite:
    async def test_what_is_put_can_be_had_and_deleted(self, backend: Backend) -> None:
        store = backend.open()
        assert await store.get("a") is None
        await store.put("a", b"1")
        assert await store.get("a") == b"1"
        await store.put("a", b"2")
        assert await store.get("a") == b"2"
        assert await store.delete("a")
        assert not await store.delete("a")
        assert await store.get("a") is None

    @pytest.mark.parametrize("value", [b"", b"\0\xff\n", bytes(range(256)) * 64])
    async def test_values_are_any_bytes(self, backend: Backend, value: bytes) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            await store.put("k", value)
            assert (await watch.next()).value == value
        assert await store.get("k") == value
        assert await store.list("") == {"k": value}

    async def test_a_claim_puts_only_what_nobody_else_holds(self, backend: Backend) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            assert await store.claim("k", b"1", 600) is None
            assert await store.claim("k", b"1", 600) is None
            assert await store.claim("k", b"2", 600) == b"1"
            assert await store.claim("k", b"2", 600, replaces=b"0") == b"1"
            assert await store.claim("k", b"2", 600, replaces=b"1") is None
            assert await store.claim("k", b"", 600, replaces=b"2") is None
            assert await store.claim("k", b"3", 600) == b""
            assert await store.claim("k", b"3", 600, replaces=b"") is None
            assert [(await watch.next()).value for _ in range(4)] == [b"1", b"2", b"", b"3"]
        assert await store.get("k") == b"3"

    async def test_of_concurrent_claims_one_wins(self, backend: Backend) -> None:
        clients = [backend.open(), backend.open()]
        values = [b"%d" % i for i in range(20)]
        holders = await asyncio.gather(
            *(clients[i % 2].claim("k", value, 600) for i, value in enumerate(values))
        )
        winner = await clients[0].get("k")
        assert winner in values
        assert [h for v, h in zip(values, holders, strict=True) if v == winner] == [None]
        assert {h for v, h in zip(values, holders, strict=True) if v != winner} == {winner}

    async def test_a_claim_runs_out_and_is_renewed(self, backend: Backend) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            assert await store.claim("short", b"1", 0.05) is None
            await watch.until("expired", "short")
        assert await store.claim("short", b"2", 0.05) is None
        assert await store.claim("short", b"2", 600) is None
        assert await store.claim("long", b"1", 0.1) is None
        async with watching(store, "long") as watch:
            seen = await watch.until("synced")
            if len(seen) > 1:  # else it expired before the watch began
                await watch.until("expired", "long")
        assert await store.get("short") == b"2"

    async def test_a_list_is_sorted_and_holds_only_its_prefix(self, backend: Backend) -> None:
        store = backend.open()
        for key in ("workers/b", "workers/a", "worker", "workers/ä", "other/a"):
            await store.put(key, key.encode())
        assert list((await store.list("workers/")).items()) == [
            ("workers/a", b"workers/a"),
            ("workers/b", b"workers/b"),
            ("workers/ä", "workers/ä".encode()),
        ]
        assert len(await store.list("")) == 5
        assert await store.list("none") == {}

    async def test_deployments_with_other_prefixes_do_not_meet(self, backend: Backend) -> None:
        one, other = backend.open("p"), backend.open("p2")
        async with watching(other, "") as watch:
            await watch.until("synced")
            await one.put("2/k", b"one")
            await one.put("n", b"1")
            await other.put("k", b"other")
            assert await watch.next() == WatchEvent("put", "k", b"other")
        assert await one.list("") == {"2/k": b"one", "n": b"1"}
        assert await other.list("") == {"k": b"other"}
        assert not await other.delete("2/k")

    async def test_an_entry_with_a_ttl_expires_and_watchers_hear_of_it(
        self, backend: Backend
    ) -> None:
        store = backend.open()
        async with watching(store, "w/") as watch:
            await watch.until("synced")
            await store.put("w/a", b"x", ttl_s=0.05)
            assert await watch.next() == WatchEvent("put", "w/a", b"x")
            assert await watch.next() == WatchEvent("expired", "w/a")
        assert await store.get("w/a") is None
        assert await store.list("w/") == {}
        assert not await store.delete("w/a")

    @pytest.mark.parametrize("ttl_s", [600, None])
    async def test_a_renewed_entry_outlives_its_first_ttl(
        self, backend: Backend, ttl_s: float | None
    ) -> None:
        store = backend.open()
        await store.put("short", b"x", ttl_s=0.2)
        await store.put("long", b"x", ttl_s=0.2)
        await store.put("long", b"x", ttl_s=ttl_s)
        async with watching(store, "short") as watch:
            seen = await watch.until("synced")
            if len(seen) > 1:  # else it expired before the watch began
                await watch.until("expired")
        assert await store.list("") == {"long": b"x"}

    async def test_a_watch_begins_with_the_entries_then_tells_changes(
        self, backend: Backend
    ) -> None:
        store, writer = backend.open(), backend.open()
        await writer.put("w/a", b"1")
        await writer.put("w/b", b"2")
        await writer.put("x/c", b"3")
        async with watching(store, "w/") as watch:
            assert await watch.until("synced") == [
                WatchEvent("put", "w/a", b"1"),
                WatchEvent("put", "w/b", b"2"),
                WatchEvent("synced"),
            ]
            await writer.put("x/d", b"no")
            await writer.put("w/a", b"4")
            await writer.delete("w/b")
            await writer.delete("w/none")
            await writer.put("w/b", b"5")
            assert [await watch.next() for _ in range(3)] == [
                WatchEvent("put", "w/a", b"4"),
                WatchEvent("deleted", "w/b"),
                WatchEvent("put", "w/b", b"5"),
            ]

    async def test_a_renewal_with_the_same_value_is_no_change(self, backend: Backend) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            for value in (b"1", b"1", b"1", b"2"):
                await store.put("k", value, ttl_s=600)
            assert (await watch.next()).value == b"1"
            assert (await watch.next()).value == b"2"

    async def test_every_watcher_hears_of_a_change(self, backend: Backend) -> None:
        store, other = backend.open(), backend.open()
        async with watching(store, "") as a, watching(store, "k") as b, watching(other, "") as c:
            for watch in (a, b, c):
                await watch.until("synced")
            await other.put("k", b"1")
            for watch in (a, b, c):
                assert await watch.next() == WatchEvent("put", "k", b"1")

    async def test_a_watcher_of_random_writes_ends_with_the_stores_contents(
        self, backend: Backend
    ) -> None:
        rng = random.Random(7)
        clients = [backend.open(), backend.open()]
        seen: dict[str, bytes] = {}
        async with watching(clients[0], "k") as watch:
            await watch.until("synced")
            for i in range(300):
                client, key = rng.choice(clients), f"k{rng.randrange(8)}"
                match rng.randrange(4):
                    case 0:
                        await client.delete(key)
                    case 1:
                        await client.put(key, b"%d" % rng.randrange(3), ttl_s=0.01)
                    case _:
                        await client.put(key, b"%d" % i)
            await clients[1].put("k-end", b"")
            for event in await watch.until("put", "k-end"):
                follow(seen, event)
            # Those with a TTL may end after the marker.
            while seen != await clients[1].list("k"):
                follow(seen, await watch.next())

    @pytest.mark.parametrize("key", ["", "a\0b", "a\nb", "k" * (MAX_KEY_BYTES + 1)])
    async def test_keys_out_of_bounds_are_refused(self, backend: Backend, key: str) -> None:
        store = backend.open()
        for operation in (
            store.put(key, b""),
            store.claim(key, b"", 1),
            store.get(key),
            store.delete(key),
        ):
            with pytest.raises(ValueError, match="store keys are"):
                await operation

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
    async def test_ttls_out_of_bounds_are_refused(self, backend: Backend, ttl_s: float) -> None:
        with pytest.raises(ValueError, match="TTL"):
            await backend.open().put("k", b"", ttl_s)

    async def test_values_out_of_bounds_are_refused(self, backend: Backend) -> None:
        store = backend.open()
        await store.put("k", bytes(MAX_VALUE_BYTES))
        with pytest.raises(ValueError, match="store values"):
            await store.put("k", bytes(MAX_VALUE_BYTES + 1))

    async def test_documents_are_apart_from_keys(self, backend: Backend) -> None:
        store, other = backend.open("p"), backend.open("p2")
        async with watching(store, "") as watch:
            await watch.until("synced")
            await store.put_documents({"a": b"1", "b/ä": bytes(range(256))}, 600)
            await store.put_documents({"a": b"2"}, 600)
            await store.put("k", b"3")
            assert await watch.next() == WatchEvent("put", "k", b"3")
        assert await store.get_document("a") == b"2"
        assert await store.get_document("b/ä") == bytes(range(256))
        assert await store.get_document("c") is None
        assert await store.get("a") is None and await store.get_document("k") is None
        assert await store.list("") == {"k": b"3"}
        assert await other.get_document("a") is None

    async def test_documents_expire(self, backend: Backend) -> None:
        store = backend.open()
        await store.put_documents({"short": b"1"}, 0.05)
        await store.put_documents({"long": b"1"}, 600)
        async with asyncio.timeout(PATIENCE_S):
            while await store.get_document("short"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await store.get_document("long") == b"1"

    async def test_documents_out_of_bounds_are_refused(self, backend: Backend) -> None:
        store = backend.open()
        for name, value, ttl_s in (
            ("", b"", 1),
            ("a", bytes(MAX_VALUE_BYTES + 1), 1),
            ("a", b"", 0),
        ):
            with pytest.raises(ValueError):
                await store.put_documents({name: value}, ttl_s)
        with pytest.raises(ValueError):
            await store.get_document("")

    async def test_operations_on_a_store_that_is_down_name_its_url(self, backend: Backend) -> None:
        store = backend.open()
        await store.put("k", b"1")
        await backend.stop()
        for operation in (
            store.put("k", b"2"),
            store.claim("k", b"2", 600),
            store.get("k"),
            store.delete("k"),
            store.list(""),
            store.put_documents({"k": b"2"}, 600),
            store.get_document("k"),
        ):
            with pytest.raises(StoreUnavailableError) as caught:
                await operation
            assert backend.url in str(caught.value)
            assert backend.url not in caught.value.message
            assert caught.value.retryable
        await backend.start()
        await when_up(store)
        assert await store.get("k") is None

    async def test_a_store_that_takes_calls_and_never_answers_counts_as_down(
        self, backend: Backend
    ) -> None:
        await backend.freeze()
        store = backend.open(timeout_s=0.2)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await store.get("k")
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await store.put("k", b"")

    async def test_a_watch_survives_an_outage_and_tells_what_changed(
        self, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "baton")
        store, writer = backend.open(), backend.open()
        await writer.put("w/kept", b"1")
        await writer.put("w/gone", b"2")
        async with watching(store, "w/") as watch:
            await watch.until("synced")
            await backend.stop()
            waiting = asyncio.create_task(watch.next())
            while "store_down" not in logged(caplog):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not waiting.done()
            await backend.start()
            await when_up(writer)
            # Whatever the watch sees first, an empty store or the new entries, it ends here.
            await writer.put("w/kept", b"1")
            await writer.put("w/new", b"3")
            events = [await waiting, *await watch.until("put", "w/new")]
            known = {"w/kept": b"1", "w/gone": b"2"}
            for event in events:
                follow(known, event)
            assert known == {"w/kept": b"1", "w/new": b"3"}
            assert WatchEvent("expired", "w/gone") in events
            if events[-1] != WatchEvent("synced") and WatchEvent("synced") not in events:
                assert await watch.next() == WatchEvent("synced")
        assert logged(caplog).count("store_down") == 1

    async def test_a_watch_may_begin_before_the_store(self, backend: Backend) -> None:
        await backend.stop()
        store, writer = backend.open(), backend.open()
        async with watching(store, "") as watch:
            first = asyncio.create_task(watch.next())
            await asyncio.sleep(0.05)
            assert not first.done()
            await backend.start()
            await when_up(writer)
            await writer.put("k", b"1")
            seen = [await first]
            while WatchEvent("put", "k", b"1") not in seen or WatchEvent("synced") not in seen:
                seen.append(await watch.next())
            assert len(seen) == 2

    async def test_closing_a_store_ends_its_watches(self, backend: Backend) -> None:
        store = backend.open()

        async def read() -> list[WatchEvent]:
            return [event async for event in store.watch("")]

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await task in ([], [WatchEvent("synced")])
        with pytest.raises(StoreUnavailableError):
            await store.get("k")

    async def test_closing_a_store_ends_watches_of_one_that_is_down(self, backend: Backend) -> None:
        await backend.stop()
        store = backend.open()
        events: Any = store.watch("")
        task = asyncio.create_task(anext(events, None))
        await asyncio.sleep(0.05)
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await task is None

    async def test_a_cancelled_watch_ends(self, backend: Backend) -> None:
        store = backend.open()
        async with watching(store, "") as watch:
            await watch.until("synced")
            task = asyncio.create_task(watch.next())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.get("k") is None
