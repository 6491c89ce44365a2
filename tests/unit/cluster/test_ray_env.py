"""The environment of a process with Ray."""

from __future__ import annotations

import pytest

from baton.cluster.ray_env import environment

GIVEN = {"RAY_AUTH_TOKEN": "given", "RAY_ADDRESS": "elsewhere:1", "HOME": "/home"}


def test_each_local_ray_has_a_token_of_its_own() -> None:
    first, second = (environment(GIVEN, local=True) for _ in range(2))
    assert first["RAY_AUTH_MODE"] == "token"
    assert len({"given", first["RAY_AUTH_TOKEN"], second["RAY_AUTH_TOKEN"]}) == 3
    assert "RAY_ADDRESS" not in first
    assert first["HOME"] == "/home"


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_given_token_is_used_where_that_is_asked_for(name: str) -> None:
    env = environment({name: "given"}, local=True, given_token=True)
    assert (env["RAY_AUTH_MODE"], env[name]) == ("token", "given")
    assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} - {name} & env.keys()


@pytest.mark.parametrize("base", [{}, {"RAY_AUTH_TOKEN": ""}])
def test_without_one_it_is_drawn_all_the_same(base: dict[str, str]) -> None:
    assert len(environment(base, local=True, given_token=True)["RAY_AUTH_TOKEN"]) == 64


def test_a_cluster_of_others_keeps_its_ways() -> None:
    env = environment(GIVEN, local=False)
    assert env["RAY_AUTH_TOKEN"] == "given"
    assert "RAY_AUTH_MODE" not in env


def test_a_ray_that_others_join_listens_to_them_at_a_port_of_its_own() -> None:
    alone = environment(GIVEN, local=True, given_token=True)
    shared = environment(GIVEN, local=True, given_token=True, shared_port=6379)
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in alone
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in shared
    assert shared["RAY_GCS_SERVER_PORT"] == "6379"
    assert (shared["RAY_AUTH_MODE"], shared["RAY_AUTH_TOKEN"]) == ("token", "given")
