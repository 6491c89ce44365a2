"""A cluster process whose actors compute nothing: `python -m fakes.cluster_main`.

The model's source says how a worker behaves: `broken` cannot be loaded, `crash` kills its process
while it starts, `slow` takes its whole grace to stop.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from baton.cluster.main import main
from baton.core.errors import ModelLoadError


@ray.remote
class FakeWorkerActor:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        source = config["settings"]["model"]["source"]
        if source == "broken":
            raise ModelLoadError("no such folder: broken")
        if source == "crash":
            os._exit(11)
        self._slow = source == "slow"

    def info(self) -> dict[str, Any]:
        return {
            "worker_id": self._config["worker_id"],
            "pid": os.getpid(),
            "address": "127.0.0.1:1",
            "state": "ready",
        }

    def ready(self) -> dict[str, Any]:
        return self.info()

    def stop(self, grace_s: float) -> None:
        time.sleep(grace_s if self._slow else 0)


if __name__ == "__main__":
    main(FakeWorkerActor)
