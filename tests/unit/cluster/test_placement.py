"""What workers ask of Ray."""

from __future__ import annotations

from typing import Any

import pytest

from baton.cluster.placement import place
from baton.cluster.protocol import ClusterGroups
from baton.core.errors import ConfigError
from baton.core.settings import Settings


def groups(**branches: dict[str, Any]) -> ClusterGroups:
    return ClusterGroups.model_validate(Settings.model_validate(branches).model_dump())


def test_a_local_ray_counts_no_cpus_and_divides_the_cores() -> None:
    placed = place(groups(), {"cores": 8.0, "CPU": 2.0}, 3, local=True)
    assert placed.num_threads == 2
    assert placed.options["num_cpus"] == 0
    assert "num_gpus" not in placed.options


def test_every_worker_has_a_thread() -> None:
    assert place(groups(), {"cores": 2.0}, 5, local=True).num_threads == 1


def test_the_setting_decides_the_threads() -> None:
    assert place(groups(engine={"num_threads": 7}), {"cores": 2.0}, 5, local=True).num_threads == 7


def test_workers_of_a_shared_cluster_claim_a_cpu_and_spread() -> None:
    placed = place(groups(), {"cores": 2, "CPU": 64}, 4, local=False)
    assert placed.num_threads == 16
    assert placed.options["num_cpus"] == 1
    assert placed.options["scheduling_strategy"] == "SPREAD"


def test_workers_of_a_small_shared_cluster_all_find_room() -> None:
    placed = place(groups(), {"cores": 2, "CPU": 2}, 3, local=False)
    assert placed.options["num_cpus"] == 0.5


def test_restarts_are_rays_and_replays_are_not() -> None:
    options = place(groups(), {"cores": 2.0}, 2, local=True).options
    assert (options["max_restarts"], options["max_task_retries"]) == (-1, 0)
    assert options["max_concurrency"] >= 4


@pytest.mark.parametrize(
    ("num_gpus", "num_workers", "share"), [(2, 2, 1), (8, 2, 1), (1, 2, 0.5), (2, 6, 0.3333)]
)
def test_gpus_are_shared_when_there_are_too_few(
    num_gpus: int, num_workers: int, share: float
) -> None:
    placed = place(groups(), {"cores": 8.0, "GPU": num_gpus}, num_workers, local=True)
    assert placed.options["num_gpus"] == share


def test_mock_and_cpu_workers_take_no_gpu() -> None:
    for branches in ({"engine": {"kind": "mock"}}, {"model": {"device": "cpu"}}):
        assert (
            "num_gpus"
            not in place(groups(**branches), {"cores": 2, "GPU": 1}, 2, local=True).options
        )


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="no GPU on this machine"):
        place(groups(model={"device": "cuda"}), {"cores": 2.0}, 2, local=True)
