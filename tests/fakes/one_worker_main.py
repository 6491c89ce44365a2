"""`baton.cluster.one_worker` with little patience for a lost head."""

from __future__ import annotations

from baton.cluster.one_worker import OneWorker
from baton.cluster.ray_process import begin

HEADLESS_S = 2.0

if __name__ == "__main__":
    begin(lambda config, events, commands: OneWorker(config, events, commands, HEADLESS_S))
