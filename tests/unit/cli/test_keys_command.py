"""`baton keys` against a real store, and what gateways see of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from baton.cli.main import app
from baton.core import api_key
from baton.gateway.keys.key_ring import KeyRing
from suites.embedded_backend import TOKEN, EmbeddedBackend


class StorePlace:
    """A store on a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN)
        self.token_file.chmod(0o600)
        self._up = threading.Event()
        # It ends what the server has left, too.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        self._up.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.backend = EmbeddedBackend()
        await self.backend.start()
        self.ring = KeyRing(self.backend.open("baton"))
        self.ring.start()
        await self.ring.synced.wait()
        self._stop = asyncio.Event()
        self._up.set()
        await self._stop.wait()
        await self.ring.close()
        await self.backend.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def keys(self, *words: str) -> Result:
        place = ["--store", self.backend.url, "--token-file", str(self.token_file)]
        return CliRunner().invoke(app, ["keys", *words, *place])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[StorePlace]:
    place = StorePlace(tmp_path)
    yield place
    place.close()


def test_a_key_is_made_listed_and_revoked(place: StorePlace) -> None:
    made = place.keys("create", "--name", "laptop", "--rpm", "5", "--tenant", "acme")
    assert made.exit_code == 0, made.output
    # Alone on standard output, for KEY=$(baton keys create).
    key = made.stdout.strip()
    key_id = api_key.key_id(key.encode())
    assert key_id is not None and f"API key {key_id} of tenant acme" in made.stderr

    (listed,) = json.loads(place.keys("list", "--json").stdout)
    assert listed["name"] == "laptop" and listed["limits"]["rpm"] == 5
    assert listed["scopes"] == ["inference"] and listed["state"] == "active"
    assert listed["created_by"].startswith("cli")
    table = place.keys("list").stdout
    assert key_id in table and "5 requests/min" in table and key not in table

    # People paste whole keys, too.
    assert place.keys("revoke", key).stdout == f"API key {key_id} is revoked\n"
    assert json.loads(place.keys("list", "--json").stdout)[0]["state"] == "revoked"


def test_scopes_age_and_budget(place: StorePlace) -> None:
    made = place.keys(
        *("create", "--json", "--scope", "admin", "--scope", "inference", "--expires", "2h"),
        *("--budget", "1000", "--budget-period", "month"),
    )
    document = json.loads(made.stdout)
    assert document["scopes"] == ["admin", "inference"]
    assert document["expires"] - document["created"] == pytest.approx(7200, abs=2)
    assert document["limits"]["budget_period"] == "month"
    assert api_key.key_id(document["key"].encode()) == document["id"]


def test_a_tenants_limits_are_set_one_by_one(place: StorePlace) -> None:
    assert place.keys("tenant", "acme").stdout == "acme: no limits\n"
    place.keys("tenant", "acme", "--rpm", "10", "--tpm", "2000")
    shown = place.keys("tenant", "acme", "--rpm", "0", "--budget", "5", "--budget-period", "day")
    assert shown.stdout == "acme: 2000 tokens/min, 5 tokens day\n"
    assert json.loads(place.keys("tenant", "acme", "--json").stdout)["limits"]["tpm"] == 2000


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("revoke", "nobody"), 1, "there is no API key 'nobody'"),
        (("create", "--expires", "soon"), 2, "--expires 'soon'"),
        (("create", "--tenant", "a b"), 1, "tenant: a tenant's name"),
        (("create", "--name", "x" * 101), 1, "name:"),
        (("create", "--rpm", str(10**13)), 1, "rpm:"),
        (("tenant", "acme", "--budget-period", "year"), 2, ""),
    ],
)
def test_what_is_wrong_is_said(
    place: StorePlace, words: tuple[str, ...], status: int, said: str
) -> None:
    result = place.keys(*words)
    assert result.exit_code == status, result.output
    assert said in result.output and "Traceback" not in result.output


def test_without_a_store_it_says_where_to_find_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["keys", "list"])
    assert result.exit_code == 2 and "--store is missing" in result.output


def test_a_store_that_is_down_is_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    result = CliRunner().invoke(
        app, ["keys", "list", "--store", "grpc://127.0.0.1:1", "--token-file", str(token)]
    )
    assert result.exit_code == 1 and "grpc://127.0.0.1:1 does not answer" in result.output
