"""A real control plane for the tests of this folder: once per test run, on loopback.

BATON_TEST_KUBECONFIG names a cluster that is there already; without it one is started from the
programs that `make cluster-tools` built. Where these are missing, the tests fail and say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.baton_objects import install_crds
from cluster.cluster import Cluster
from cluster.control_plane import ControlPlane
from cluster.failures import ShowLogs
from cluster.host_gateway import HostGateway
from cluster.operator_under_test import PATIENT, Operator
from cluster.processes import Processes
from cluster.tools import MissingTools, Tools
from fakes.time_limits import limit_time

FOLDER = Path(__file__).parent


# Of a test, and of a control plane's start before it, on a machine that is busy with other things.
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    limit_time(items, FOLDER, TIMEOUT_S)


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


@pytest.fixture(scope="module")
def gateway() -> Iterator[HostGateway]:
    """It answers for the gateways of all services of a module's tests."""
    with HostGateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Iterator[None]:
    """What services need of a cluster: Baton's kinds, and room for pods."""
    install_crds(cluster)
    with cluster.kwok_nodes(4):
        yield


@pytest.fixture(scope="module")
def operator(cluster: Cluster, gateway: HostGateway, nodes: None) -> Iterator[Operator]:
    """One that serves all namespaces; at the end it has asked for nothing that is forbidden."""
    with cluster.namespace() as home:
        operator = Operator(cluster, home, None, gateway)
        operator.start(**PATIENT)
        yield operator
        operator.stop_all()
        assert operator.forbidden() == []


@pytest.fixture
def local_operator(
    cluster: Cluster, namespace: str, gateway: HostGateway, nodes: None
) -> Iterator[Operator]:
    """Not started; in the namespace that it serves, with no right outside of it."""
    operator = Operator(cluster, namespace, namespace, gateway)
    yield operator
    operator.stop_all()
