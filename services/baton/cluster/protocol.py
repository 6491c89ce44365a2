"""What `baton serve` and its cluster process tell each other: one JSON document a line.

To the cluster process, on standard input: a `ClusterConfig`, then commands. End of input: stop.

| command | |
|---|---|
| `{"set": {"any": 3}}` | new targets, role by role; roles left out have none |
| `{"stop_worker": ID, "grace_s": S}` | drain and stop one worker; its pool's target falls by one |
| `{"retire": S}` | drain every worker for at most S seconds, then exit |

A process for one worker (`one_worker`) knows `retire` only, and adds `health` to a ready worker:
where its health server listens. A further node of it (`joined_node`) takes `retire` as the longest
that it may wait for its leader's end, and is ready once the leader's Ray answers.

From it, on standard output, are events.

| event | fields |
|---|---|
| `stage` | `name`, and `seconds` when it is done |
| `worker` | `worker_id`, `role`, `state`; ready: `pid`, `address`, `seconds`; failed: `message` |
| `nodes` | `joined` of `wanted` nodes of a worker are there |
| `ready` | every worker serves |
| `ray_lost` | the head is gone; workers serve on, nothing can be started |
| `error` | `code`, `message`; the process ends |
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from baton.core.settings import (
    ClusterSettings,
    EngineSettings,
    ModelSettings,
    PoolSettings,
    WorkerSettings,
)

Event = dict[str, Any]
Command = dict[str, Any]


class ClusterGroups(BaseModel):
    """The branches of the settings tree that the cluster process reads itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: ModelSettings
    engine: EngineSettings
    worker: WorkerSettings
    pools: PoolSettings
    cluster: ClusterSettings


class ClusterConfig(BaseModel):
    """The first line. `settings` is the whole tree as JSON: workers get it as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    token: str
    """The deployment's."""
    store_url: str
    """Resolved: never `embedded`."""
    model_folder: str | None
    """None: each worker looks for the model itself."""
    model_name: str
    temp_dir: str = ""
    """Folder for Ray's files, set at each start."""
    generation: int = 0
    """Counts the starts of Ray in this deployment; later ones name their workers differently."""

    def groups(self) -> ClusterGroups:
        return ClusterGroups.model_validate(self.settings)
