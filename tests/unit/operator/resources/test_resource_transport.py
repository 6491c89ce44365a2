"""Transport profiles: what each needs of the pod and of UCX, and not more."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from baton_operator.resources.pods.baton_yaml import worker_config
from baton_operator.resources.pods.worker import worker_template
from fakes.model_services import container, context_of, with_pool
from fakes.pod_security import violations

RDMA = {"resourceName": "rdma/hca_shared_devices_a", "quantity": 2}


def template(transport: dict[str, Any], **pool: Any) -> dict[str, Any]:
    context = with_pool(context_of({"transport": transport}), **pool)
    return worker_template(context, context.spec.pools[0], "r1")


def ucx(transport: dict[str, Any]) -> dict[str, Any]:
    context = context_of({"transport": transport})
    found: dict[str, Any] = yaml.safe_load(worker_config(context, context.spec.pools[0]))
    return found["transfer"]


def test_tcp_needs_nothing() -> None:
    assert violations(template({})) == []


def test_rdma_gets_its_device_and_may_pin_memory() -> None:
    found = template({"profile": "rdma", "rdma": RDMA}, gpus=1)
    assert container(found)["resources"]["limits"] == {
        "rdma/hca_shared_devices_a": "2",
        "nvidia.com/gpu": "1",
    }
    assert container(found)["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["IPC_LOCK"],
    }
    assert violations(found) == [
        *("baton: adds IPC_LOCK", "baton: runAsNonRoot", "baton: runAsUser 0")
    ]


def test_rdma_on_the_nodes_network_still_finds_services() -> None:
    spec = template({"profile": "rdma", "rdma": {**RDMA, "hostNetwork": True}})["spec"]
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert "hostNetwork" not in template({"profile": "rdma", "rdma": RDMA})["spec"]


def test_rdma_can_have_a_network_of_its_own() -> None:
    found = template({"profile": "rdma", "rdma": {**RDMA, "networkAttachment": "ib@net1"}})
    assert found["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "ib@net1"


def test_the_node_profile_shares_ipc_and_pids_and_nothing_else() -> None:
    found = template({"profile": "node"})
    assert violations(found) == ["hostPID", "hostIPC"]


@pytest.mark.parametrize(
    ("transport", "tls"),
    [
        ({}, "tcp,self,cuda_copy"),
        ({"profile": "rdma", "rdma": RDMA}, "^sm,cuda_ipc"),
        ({"profile": "node"}, None),
    ],
)
def test_ucx_may_use_what_the_profile_is_for(transport: dict[str, Any], tls: str | None) -> None:
    found = ucx(transport)
    assert found.get("ucx_tls") == tls
    assert found["ucx_net_devices"] == ""
    assert found["expect_rdma"] is (transport.get("profile") == "rdma")
