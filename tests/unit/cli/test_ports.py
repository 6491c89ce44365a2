"""Ports are taken or refused before anything is started."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from baton.cli.ports import bind_ports
from baton.core.errors import ConfigError
from baton.core.settings import Settings


def settings(**gateway: Any) -> Settings:
    return Settings.model_validate({"gateway": gateway})


@pytest.mark.parametrize("name", ["port", "grpc_port"])
def test_a_taken_port_is_refused_by_name(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: the port is in use"):
            bind_ports(settings(**{"port": 0, "grpc_port": 0, name: port}))


def test_a_taken_store_port_is_refused_only_by_who_would_use_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tree = {"gateway": {"port": 0, "grpc_port": 0}, "store": {"port": port}}
        with pytest.raises(ConfigError, match="the port is in use"):
            bind_ports(Settings.model_validate(tree))
        tree["store"] |= {"url": "redis://127.0.0.1/0"}
        bind_ports(Settings.model_validate(tree)).close()


def test_one_port_for_both_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose two"):
        bind_ports(settings(port=4711, grpc_port=4711))


def test_zero_takes_any_port() -> None:
    with bind_ports(settings(port=0, grpc_port=0)) as bound:
        assert bound.getsockname()[1] > 0
