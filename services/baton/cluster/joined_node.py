"""A node that joins the Ray of another worker's leader: `baton worker --join` starts it.

It has no worker. It lends its GPUs to the leader's ranks and lives as long as the leader does:
first it waits for the leader's Ray, however long that takes, and at last it leaves when that is
gone. Asked to leave it stays as well, for the leader, who is asked too where Kubernetes takes the
whole group away, cannot drain without it; but no longer than the leader may take.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from baton.cluster.addresses import address, is_local, leader_at
from baton.cluster.other_nodes import NODE_PROBES
from baton.cluster.ray_head import JOIN_TIMEOUT_S, PortProbe
from baton.cluster.ray_process import RayProcess, begin
from baton.core.errors import UnavailableError

TICK_S = 0.2
KNOCK_EVERY_S = 1.0
PROBE_EVERY_S = 1.0
# Beyond the grace: the leader is asked a moment later, and says goodbye to the store.
STOP_MARGIN_S = 5.0


class JoinedNode(RayProcess):
    """One node, from the leader's start to its end."""

    def _serve(self) -> None:
        head = self._await_head()
        if head is None:
            return
        log = Path(self._config.temp_dir) / "ray-start.log"
        with log.open("wb") as output:
            raylet = subprocess.Popen(self._command(head), stdout=output, stderr=output)
        self._emit({"event": "ready"})
        probe = PortProbe(head, NODE_PROBES)
        probe_at, leave_at = 0.0, float("inf")
        while not self._input.ended.is_set():
            now = time.monotonic()
            if now >= probe_at:
                probe_at = now + PROBE_EVERY_S
                probe.probe()
            if probe.lost or raylet.poll() is not None:
                if leave_at < float("inf"):
                    return
                if probe.lost:
                    raise UnavailableError(f"the leader's Ray at {head} is gone, and so this ends")
                raise UnavailableError(f"Ray did not join {head}, or left it: {_last_line(log)}")
            if now >= leave_at:
                return
            with contextlib.suppress(queue.Empty):
                command = self._input.commands.get(timeout=TICK_S)
                if "retire" in command:
                    leave_at = now + float(command["retire"]) + STOP_MARGIN_S

    def _await_head(self) -> str | None:
        """The IP address and port of the leader's Ray, once it answers; None: told to stop before.

        Resolved once: the name may belong to the leader's successor later.
        """
        host, port = leader_at(self._groups.worker.join or "", self._groups.cluster.ray_port)
        self._emit({"event": "stage", "name": "leader"})
        while not self._input.ended.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host, port), JOIN_TIMEOUT_S) as connection,
            ):
                return address(*connection.getpeername()[:2])
            self._input.ended.wait(KNOCK_EVERY_S)
        return None

    def _command(self, head: str) -> list[str]:
        own = self._groups.worker.host
        return [
            *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block"),
            *("--address", head, "--temp-dir", self._config.temp_dir),
            *([] if is_local(own) else ["--node-ip-address", own]),
            # As many processes wait there as it has CPUs; ranks ask for none.
            *("--num-cpus", "1"),
            *("--object-store-memory", str(self._groups.cluster.object_store_bytes)),
            "--disable-usage-stats",
        ]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def main() -> NoReturn:
    """Read the configuration from standard input and run."""
    begin(JoinedNode)


if __name__ == "__main__":
    main()
