"""Nodes that exist in the API alone: kwok keeps them and says what became of their pods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.processes import Processes
from fakes.free_port import free_port

_ANNOTATION = "kwok.x-k8s.io/node"
_STAGES = Path(__file__).with_name("kwok.yaml")
# Enough for any test's pods; more, such as GPUs, is named by the test.
_CAPACITY = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "250"}


def start(processes: Processes, program: Path, kubeconfig: Path) -> None:
    """Once: it keeps every node that `manifest` makes."""
    if processes.running("kwok"):
        return
    processes.start(
        "kwok",
        [
            program,
            f"--kubeconfig={kubeconfig}",
            f"--manage-nodes-with-annotation-selector={_ANNOTATION}=fake",
            f"--config={_STAGES}",
            f"--server-address=127.0.0.1:{free_port()}",
            # Leases keep the nodes alive instead of a status written every few seconds.
            "--node-lease-duration-seconds=40",
        ],
    )


def manifest(name: str, labels: Mapping[str, str], capacity: Mapping[str, str]) -> dict[str, Any]:
    """A Node; `labels` and `capacity` add to what each has."""
    resources = {**_CAPACITY, **capacity}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {_ANNOTATION: "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **labels,
            },
        },
        "status": {"capacity": resources, "allocatable": resources},
    }
