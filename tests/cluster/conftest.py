"""A real control plane for the tests of this folder: once per test run, on loopback.

BATON_TEST_KUBECONFIG names a cluster that is there already; without it one is started from the
programs that `make cluster-tools` built. Where these are missing, the tests fail and say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from cluster.control_plane import ControlPlane
from cluster.failures import ShowLogs
from cluster.processes import Processes
from cluster.tools import MissingTools, Tools


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Shared by all tests: each works in a namespace of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    tools = Tools()
    existing = os.environ.get("BATON_TEST_KUBECONFIG")
    plane = None if existing else ControlPlane(tools, folder)
    if plane is None:
        (folder / "logs").mkdir()
    processes = plane.processes if plane else Processes(folder / "logs")
    request.config.pluginmanager.register(ShowLogs(processes))
    try:
        if plane:
            plane.start()
        path = plane.kubeconfig if plane else Path(existing or "")
        made = Cluster(path, folder, tools, processes)
        made.audit_log = plane.audit_log if plane else None
        yield made
    except MissingTools as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    finally:
        processes.stop_all()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh one."""
    with cluster.namespace() as name:
        yield name
