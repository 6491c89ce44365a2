"""The environment of a Ray, its folder, and the probe of its head."""

from __future__ import annotations

import os
import socket

import pytest

from baton.cluster.ray_env import environment, make_temp_dir
from baton.cluster.ray_head import PROBES, PortProbe, check_cluster
from baton.core.errors import ConfigError


def test_a_local_ray_has_its_own_token_and_stays_on_loopback() -> None:
    first = environment({"RAY_ADDRESS": "auto", "HOME": "/h"}, local=True)
    assert "RAY_ADDRESS" not in first
    assert first["HOME"] == "/h"
    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert first["RAY_AUTH_TOKEN"] != environment({}, local=True)["RAY_AUTH_TOKEN"]


def test_an_existing_cluster_keeps_the_users_authentication() -> None:
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/t"}
    env = environment(mine, local=False)
    assert mine.items() <= env.items()
    assert "RAY_AUTH_TOKEN" not in env
    assert env["RAY_gcs_rpc_server_reconnect_timeout_s"] == "3600"


def test_sockets_fit_into_the_folder() -> None:
    folder = make_temp_dir()
    try:
        longest = f"{folder}/session_2026-11-21_06-24-51_429197_4194304/sockets/plasma_store.1"
        assert len(longest) <= 107
    finally:
        os.rmdir(folder)


def test_a_head_is_lost_after_several_failed_probes_and_for_good() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    probe = PortProbe(f"127.0.0.1:{port}")
    assert probe.probe()
    server.close()
    assert [probe.probe() for _ in range(PROBES)] == [True] * (PROBES - 1) + [False]
    with socket.create_server(("127.0.0.1", port)):
        assert not probe.probe()
    assert probe.lost


def test_one_failed_probe_is_forgiven() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    probe = PortProbe(f"127.0.0.1:{port}")
    server.close()
    probe.probe()
    with socket.create_server(("127.0.0.1", port)):
        assert probe.probe()
    assert [probe.probe() for _ in range(PROBES - 1)] == [True] * (PROBES - 1)


@pytest.mark.parametrize("address", ["ray://localhost:10001", "localhost", "host:", ":6379"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        check_cluster(address)


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_cluster(address)
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}"):
        check_cluster(address)
