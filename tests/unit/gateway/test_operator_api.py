"""What operators do over HTTP: who may, what they get, what the audit says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from baton.core.api_key import Scope
from baton.core.settings import GatewaySettings
from baton.gateway.context import Context
from baton.gateway.keys.access import open_access
from fakes.gateway import TOKEN, FakeSteering, asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.keyed_gateway import keyed_context, make_key
from fakes.memory_store import MemoryStore
from fakes.routing import lease
from suites.embedded_backend import EmbeddedBackend

BEARER = {"authorization": f"Bearer {TOKEN}"}
DRAIN = "/v1/baton/workers/w1/drain"
UNDRAIN = "/v1/baton/workers/w1/undrain"
TRAFFIC = "/v1/baton/traffic"
CHANGES = (("POST", DRAIN), ("POST", UNDRAIN), ("PUT", TRAFFIC))
LOOKS = ("/v1/baton/workers", "/v1/baton/status", TRAFFIC)
# Bodies that each of them takes.
BODIES = {DRAIN: {}, UNDRAIN: {}, TRAFFIC: {"weights": {"r1": 1}}}


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """(who, action, target, result) of the audit log so far."""
    monkeypatch.setattr(logging.getLogger("baton.audit"), "propagate", True)
    caplog.set_level(logging.INFO, "baton.audit")

    def read() -> list[tuple[str, str, str, str]]:
        records = [r for r in caplog.records if r.name == "baton.audit"]
        found = [dict(record.args[0].fields) for record in records]  # type: ignore[index,union-attr]
        return [(e["key_id"], e["action"], e["target"], e["result"]) for e in found]

    return read


def steering(context: Context) -> FakeSteering:
    found = context.operations.steering
    assert isinstance(found, FakeSteering)
    return found


async def statuses(client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[set[int], set[int]]:
    """Of all that looks, and of all that changes something."""
    looks = {(await client.get(path, headers=headers)).status_code for path in LOOKS}
    changes = {
        (await client.request(method, path, json=BODIES[path], headers=headers)).status_code
        for method, path in CHANGES
    }
    return looks, changes


# --- who may ---


async def test_on_loopback_without_keys_everything_is_open_and_audited(audited: Any) -> None:
    context = make_context(FakeGenerator())
    async with asgi_client(context) as client:
        assert await statuses(client, {}) == ({200}, {200})
        assert await statuses(client, BEARER) == ({200}, {200})
    assert audited() == [
        (who, method, path, "ok")
        for who in ("anonymous", "deployment-token")
        for method, path in CHANGES
    ]


@pytest.mark.parametrize("auth", ["off", "auto"])
async def test_on_a_network_without_keys_changes_need_the_token(
    auth: str, backend: EmbeddedBackend, audited: Any
) -> None:
    settings = GatewaySettings(host="0.0.0.0", auth=auth)  # type: ignore[arg-type]
    context = make_context(FakeGenerator(), settings)
    async with (
        open_access(backend.open(), settings, context.metrics) as context.access,
        asgi_client(context) as client,
    ):
        if context.access is not None:
            await context.access.auth.ring.synced.wait()
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": TOKEN}):
            assert await statuses(client, wrong) == ({200}, {401})
        refused = await client.post(DRAIN)
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert not steering(context).drains and not audited()
        assert await statuses(client, BEARER) == ({200}, {200})
    assert {who for who, *_ in audited()} == {"deployment-token"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_with_keys_an_admins_or_the_token(
    host: str, backend: EmbeddedBackend, audited: Any
) -> None:
    async with keyed_context(backend.open(), FakeGenerator(), host=host) as context:
        admin, boss = await make_key(context, Scope.ADMIN)
        reader, spy = await make_key(context, Scope.READ)
        user, app = await make_key(context)
        async with asgi_client(context) as client:
            assert await statuses(client, {}) == ({401}, {401})
            assert await statuses(client, {"authorization": f"Bearer {TOKEN}x"}) == ({401}, {401})
            assert audited() == []
            assert await statuses(client, {"x-api-key": user}) == ({403}, {403})
            assert await statuses(client, {"x-api-key": reader}) == ({200}, {403})
            assert await statuses(client, {"x-api-key": admin}) == ({200}, {200})
            assert await statuses(client, BEARER) == ({200}, {200})
            # The token opens nothing else.
            assert (await client.get("/v1/baton/keys", headers=BEARER)).status_code == 401
            chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
            refused = await client.post("/v1/chat/completions", json=chat, headers=BEARER)
            assert refused.status_code == 401
    changes = [(who, result) for who, action, _, result in audited() if action != "GET"]
    assert changes == [
        *[(app.id, "insufficient_permissions")] * 3,
        *[(spy.id, "insufficient_permissions")] * 3,
        *[(boss.id, "ok")] * 3,
        *[("deployment-token", "ok")] * 3,
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_nobody_without_a_key_writes_audit_lines(
    host: str, backend: EmbeddedBackend, audited: Any
) -> None:
    settings = GatewaySettings(host=host)
    context = make_context(FakeGenerator(), settings)
    async with (
        open_access(backend.open(), settings, context.metrics) as context.access,
        asgi_client(context) as client,
    ):
        if context.access is not None:
            await context.access.auth.ring.synced.wait()
        assert (await client.post("/v1/baton/keys", json={})).status_code == 403
        assert (await client.delete("/v1/baton/keys/x")).status_code == 403
        assert (await client.post("/v1/baton/keys", content=b"[")).status_code in (400, 403)
        assert (await client.post("/v1/baton/workers/w2/drain")).status_code in (401, 404)
    assert audited() == []


# --- what they get ---


async def test_a_worker_is_drained_and_undrained_again_and_again() -> None:
    context = make_context(FakeGenerator())
    async with asgi_client(context) as client:
        for body in ({"within_s": 1.5, "reason": "spot"}, {}, {"within_s": 0}):
            answer = await client.post(DRAIN, json=body)
            assert answer.status_code == 200
            assert answer.json() == {"id": "w1", "draining": True, "num_running": 3}
        assert (await client.post(DRAIN)).status_code == 200
        assert steering(context).drains == [
            ("w1", 1.5, "spot"),
            ("w1", 0.0, ""),
            ("w1", 0.0, ""),
            ("w1", 0.0, ""),
        ]
        for _ in range(2):
            assert (await client.post(UNDRAIN)).json() == {"id": "w1", "draining": False}


async def test_errors_are_in_the_apis_form() -> None:
    context = make_context(FakeGenerator())
    async with asgi_client(context) as client:
        for verb in ("drain", "undrain"):
            unknown = await client.post(f"/v1/baton/workers/nobody/{verb}")
            assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "not_found"
            lost = await client.post(f"/v1/baton/workers/lost/{verb}")
            assert lost.status_code == 503 and lost.headers["retry-after"]
        for body, param in (
            ({"within_s": -1}, "within_s"),
            ({"reason": 5}, "reason"),
            ({"now": True}, "now"),
        ):
            wrong = await client.post(DRAIN, json=body)
            assert wrong.status_code == 400 and wrong.json()["error"]["param"] == param
        assert (await client.get(DRAIN)).status_code == 405


async def test_weights_are_set_shown_and_taken_away() -> None:
    context = make_context(FakeGenerator())
    traffic = context.operations.traffic
    for number in (1, 2):
        pool = traffic._pool
        one = lease(f"a{number}", model="tiny", revision=f"r{number}")
        pool.set_up(pool.add(one), True)
    async with asgi_client(context) as client:
        even = {"r1": 0.5, "r2": 0.5}
        assert (await client.get(TRAFFIC)).json() == {"weights": {}, "shares": even}
        wish = {"weights": {"r1": 90, "r2": 10, "absent": 5}}
        answer = await client.put(TRAFFIC, json=wish)
        assert answer.status_code == 200
        assert answer.json()["weights"] == wish["weights"]
        assert answer.json()["shares"] == {"r1": 0.9, "r2": 0.1}
        assert (await client.get(TRAFFIC)).json() == answer.json()
        status = (await client.get("/v1/baton/status")).json()
        assert status["revisions"] == {"r1": 0.9, "r2": 0.1}
        assert status["traffic"] == wish["weights"]
        for body, param in (
            ({}, "weights"),
            ({"weights": {"r1": -1}}, "weights"),
            ({"weights": {"r1": 0}}, "weights"),
            ({"weights": {"r1": 1}, "ttl_s": 0}, "ttl_s"),
            ({"weights": {f"r{i}": 1 for i in range(65)}}, "weights"),
        ):
            wrong = await client.put(TRAFFIC, json=body)
            assert wrong.status_code == 400, body
            assert wrong.json()["error"]["param"].startswith(param)
        assert (await client.put(TRAFFIC, json={"weights": {}})).json()["shares"] == even


async def test_a_store_that_is_down_is_a_503_that_does_not_say_where_it_is() -> None:
    context = make_context(FakeGenerator())
    store = context.operations.traffic._store
    assert isinstance(store, MemoryStore)
    store.is_down = True
    async with asgi_client(context) as client:
        answer = await client.put(TRAFFIC, json={"weights": {"r1": 1}})
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the store does not answer now"


# --- the status ---


async def test_a_status_without_requests_has_no_times() -> None:
    async with asgi_client(make_context(FakeGenerator())) as client:
        answer = await client.get("/v1/baton/status")
    assert answer.json() == {
        "slo": {
            "ttft_s": None,
            "tpot_s": None,
            "quantile": 0.95,
            "window_s": 300.0,
            "requests": 0,
            "errors": 0,
            "processes": 1,
        },
        "revisions": {},
        "traffic": {},
        "workers": [{"id": "w1"}],
    }


async def test_a_status_tells_of_requests_and_of_failures() -> None:
    context = make_context(FakeGenerator(lambda *_: text_tokens("several tokens")))
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 8}
    async with asgi_client(context) as client:
        for _ in range(3):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
        # Never submitted: the client's own fault.
        assert (await client.post("/v1/completions", json={})).status_code == 400
        slo = (await client.get("/v1/baton/status?quantile=0.5")).json()["slo"]
        assert (slo["requests"], slo["errors"], slo["quantile"]) == (3, 0, 0.5)
        assert 0 < slo["ttft_s"] < 60 and 0 <= slo["tpot_s"] < 60
        context.operations.recent.ended(None, None, failed=True)
        slo = (await client.get("/v1/baton/status")).json()["slo"]
        assert (slo["requests"], slo["errors"]) == (4, 1)
        for wrong in ("0", "1", "x", "nan"):
            refused = await client.get(f"/v1/baton/status?quantile={wrong}")
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "quantile"
