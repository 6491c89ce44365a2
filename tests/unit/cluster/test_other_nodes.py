"""The nodes that stand and fall with a worker of several, and how their addresses are written."""

from __future__ import annotations

import socket

import pytest

from baton.cluster import other_nodes
from baton.cluster.addresses import address, is_local, leader_at
from baton.cluster.other_nodes import OtherNodes
from baton.core.errors import ConfigError, UnavailableError


@pytest.mark.parametrize(
    ("join", "found"),
    [
        ("lws-0.lws.llm", ("lws-0.lws.llm", 6379)),
        ("lws-0.lws.llm:7000", ("lws-0.lws.llm", 7000)),
        ("10.1.2.3:7000", ("10.1.2.3", 7000)),
        ("fd00::2", ("fd00::2", 6379)),
        ("[fd00::2]", ("fd00::2", 6379)),
        ("[fd00::2]:7000", ("fd00::2", 7000)),
    ],
)
def test_a_leader_is_given_with_or_without_its_port(join: str, found: tuple[str, int]) -> None:
    assert leader_at(join, 6379) == found


@pytest.mark.parametrize(
    "join", ["", ":7000", "host:", "host:x", "host:0", "host:65536", "ray://h"]
)
def test_what_is_no_address_is_refused(join: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST or HOST:PORT"):
        leader_at(join, 6379)


def test_addresses_are_written_as_ray_reads_them() -> None:
    assert address("10.1.2.3", 7000) == "10.1.2.3:7000"
    assert address("fd00::2", 7000) == "[fd00::2]:7000"


def test_ray_listens_where_it_is_told_unless_that_is_this_machine_alone() -> None:
    assert all(is_local(host) for host in ("localhost", "127.0.0.1", "::1", "[::1]"))
    assert not any(is_local(host) for host in ("10.1.2.3", "fd00::2", "node-a"))


def test_a_node_is_gone_when_nobody_has_listened_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(other_nodes, "PROBE_EVERY_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as stays:
        goes = socket.create_server(("127.0.0.1", 0))
        at = [f"127.0.0.1:{each.getsockname()[1]}" for each in (stays, goes)]
        nodes = OtherNodes(at, probes=3)
        for _ in range(5):
            nodes.check()
        goes.close()
        for _ in range(2):
            nodes.check()
        with pytest.raises(UnavailableError, match=f"has lost its node at {at[1]}.*all of its 3"):
            nodes.check()


def test_a_worker_of_one_node_has_no_others() -> None:
    assert not OtherNodes([])
    OtherNodes([]).check()
