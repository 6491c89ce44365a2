"""What a test that failed tells of its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.cluster import Cluster, CommandFailed

_LINES = 15


@contextmanager
def told(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Where its body raises: objects, events, and the ends of all pods' logs, printed."""
    try:
        yield
    except BaseException:
        _show(cluster, "get", "pods,bms,bpool", "-o", "wide", "-n", namespace)
        _show(cluster, "get", "events", "--sort-by=.lastTimestamp", "-n", namespace)
        for pod in cluster.get_all("pods", namespace):
            name, tail = pod["metadata"]["name"], f"--tail={_LINES}"
            _show(cluster, "logs", name, tail, "-n", namespace)
            if any(c["restartCount"] for c in pod["status"].get("containerStatuses", [])):
                _show(cluster, "logs", name, tail, "--previous", "-n", namespace)
        raise


def _show(cluster: Cluster, *args: str) -> None:
    with suppress(CommandFailed):
        print(f"$ kubectl {' '.join(args)}\n{cluster.kubectl(*args)}")
