"""The other nodes of a worker that has several: waits for them, and notices when one is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from baton.cluster.addresses import address
from baton.cluster.ray_head import PortProbe
from baton.core.errors import UnavailableError

LOOK_EVERY_S = 0.5
PROBE_EVERY_S = 1.0
# In a row, after which a node counts as gone. A network that hesitates must not cost a worker that
# takes minutes to load.
NODE_PROBES = 10


def joined(wanted: int, ended: threading.Event, tell: Callable[[int], None]) -> list[str] | None:
    """HOST:PORT of the raylets of the others once `wanted` nodes are there, this one included.

    However long that takes: pods wait for room, images, ... None: `ended` was set before. `tell`
    hears how many there are, whenever that changes.
    """
    import ray

    told = 0
    while True:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) != told:
            told = len(nodes)
            tell(told)
        if told >= wanted:
            break
        if ended.wait(LOOK_EVERY_S):
            return None
    own = ray.get_runtime_context().get_node_id()
    return [
        address(node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in nodes
        if node["NodeID"] != own
    ]


class OtherNodes:
    """What stands and falls with this node; of a worker of one node there are none."""

    def __init__(self, addresses: list[str], probes: int = NODE_PROBES) -> None:
        self._nodes = [PortProbe(each, probes) for each in addresses]
        self._probe_at = 0.0

    def __len__(self) -> int:
        return len(self._nodes)

    def check(self) -> None:
        """Call it often. Raises UnavailableError once a node is gone."""
        now = time.monotonic()
        if now < self._probe_at:
            return
        self._probe_at = now + PROBE_EVERY_S
        for node in self._nodes:
            if not node.probe():
                raise UnavailableError(
                    f"the worker has lost its node at {node.address}, and computes with all of "
                    f"its {len(self) + 1} nodes or not at all; start them again"
                )
