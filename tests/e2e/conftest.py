"""A cluster of one real node for the tests of this folder: `make test-e2e` gives it namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.cluster import Cluster
from cluster.control_plane import ControlPlane
from cluster.failures import ShowLogs
from cluster.tools import MissingTools, Tools
from e2e.node import ADDRESS, Node


@pytest.fixture(scope="session")
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Node, Cluster]]:
    """Started once; images are imported into it."""
    if "BATON_TEST_CGROUP" not in os.environ:
        pytest.fail("a node needs namespaces of its own: make test-e2e", pytrace=False)
    folder = tmp_path_factory.mktemp("node")
    tools = Tools()
    plane = None
    try:
        plane = ControlPlane(tools, folder, nodes_address=ADDRESS)
        request.config.pluginmanager.register(ShowLogs(plane.processes))
        started = Node(tools, folder, plane)
        started.start_network()
        plane.start()
        cluster = Cluster(plane.kubeconfig, folder, tools, plane.processes)
        started.start(cluster)
        yield started, cluster
    except MissingTools as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    finally:
        if plane:
            plane.stop()
