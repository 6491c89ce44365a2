"""What each part of a deployment is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.cluster.parts import cluster_config, gateway_config
from baton.core.errors import ConfigError
from baton.core.settings import Settings, WorkerSettings


@pytest.mark.parametrize("fixed", [{"port": 8082}, {"health_port": 8081}])
def test_workers_of_one_machine_cannot_share_a_port(fixed: dict[str, int]) -> None:
    settings = Settings(worker=WorkerSettings(**fixed))
    gateway = gateway_config(settings, Path("folder"), "token")
    with pytest.raises(ConfigError, match=r"worker\.port and worker\.health_port .* leave them"):
        cluster_config(settings, gateway, "grpc://127.0.0.1:1")


@pytest.mark.parametrize("wide", [WorkerSettings(num_nodes=2), WorkerSettings(join="host")])
def test_workers_of_a_deployment_have_one_node_each(wide: WorkerSettings) -> None:
    settings = Settings(worker=wide)
    gateway = gateway_config(settings, Path("folder"), "token")
    with pytest.raises(ConfigError, match="for `baton worker`"):
        cluster_config(settings, gateway, "grpc://127.0.0.1:1")


def test_any_free_health_port_is_all_right() -> None:
    settings = Settings(worker=WorkerSettings(health_port=0))
    config = cluster_config(settings, gateway_config(settings, Path("f"), "t"), "grpc://h:1")
    assert config.groups().worker.health_port == 0
