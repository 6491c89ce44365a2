"""What each worker asks of Ray, and how many threads it gets (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton.cluster.protocol import ClusterGroups
from baton.core.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """The same for every worker of a deployment."""

    num_threads: int
    options: dict[str, Any]
    """Of `ActorClass.options`."""


def place(
    groups: ClusterGroups, resources: Mapping[str, float], num_workers: int, *, local: bool
) -> Placement:
    """Divide what Ray has (`ray.cluster_resources()`) among `num_workers`.

    `local` says that Ray is this deployment's own, on one machine, whose usable cores are
    `resources["cores"]`. GPUs are shared when there are fewer than workers. Raises ConfigError when
    CUDA is demanded and Ray sees no GPU.
    """
    cores = resources["cores"] if local else resources.get("CPU", 1)
    num_threads = groups.engine.num_threads or max(1, int(cores / max(1, num_workers)))
    options: dict[str, Any] = {
        # A local Ray counts nothing. In a shared cluster a worker is somebody's CPU, so claim one,
        # or as much as leaves room for all: Ray would let the last ones wait for ever.
        "num_cpus": 0 if local else _share(resources.get("CPU", 1), num_workers),
        # Ray starts a dead worker again, as often as it dies; its requests are replayed by the
        # gateway and never by Ray.
        "max_restarts": -1,
        "max_task_retries": 0,
        # `info` is answered while `stop` waits for a drain.
        "max_concurrency": 4,
    }
    if not local:
        options["scheduling_strategy"] = "SPREAD"
    num_gpus = resources.get("GPU", 0)
    if groups.engine.kind == "torch" and groups.model.device != "cpu":
        if num_gpus:
            options["num_gpus"] = _share(num_gpus, num_workers)
        elif groups.model.device == "cuda":
            where = "on this machine" if local else "in its cluster"
            raise ConfigError(f"--device cuda: Ray finds no GPU {where}; use --device cpu or auto")
    return Placement(num_threads, options)


def _share(amount: float, num_workers: int) -> float:
    """One each, or an equal part of one; a part never spans two."""
    sharers = math.ceil(num_workers / amount)
    # Rounded down: Ray counts in ten-thousandths.
    return 1 if sharers <= 1 else math.floor(10_000 / sharers) / 10_000
