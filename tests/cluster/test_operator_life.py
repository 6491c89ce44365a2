"""Operators come and go, lose touch and come back: services end as if nothing had happened."""

from __future__ import annotations

import base64
import signal

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from baton_operator import names
from cluster.baton_objects import Manifest
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import service, wait_for
from cluster.operator_under_test import ACCOUNT, Operator
from cluster.way_to_api import WayToApi
from suites.redis_server import RedisServer

# Of each life: so many writes, then it dies.
LIVES = (1, 1, 2, 1, 3, 2, 5, 4)
CHILDREN = (
    *("workerpools", "deployments", "services", "serviceaccounts", "configmaps", "secrets"),
    *("poddisruptionbudgets", "networkpolicies"),
)


def children(cluster: Cluster, namespace: str, name: str) -> dict[str, Manifest]:
    """What a service made, without what differs from one object to its twin."""
    found = {}
    for kind in CHILDREN:
        for each in cluster.get_all(kind, namespace, f"{names.LABEL_SERVICE}={name}"):
            meta = each["metadata"]
            found[f"{kind}/{meta['name']}".replace(name, "SERVICE")] = {
                "labels": sorted(meta["labels"]),
                "owners": len(meta.get("ownerReferences") or ()),
                "replicas": (each.get("spec") or {}).get("replicas"),
                "keys": sorted(each.get("data") or ()),
            }
    return found


def test_one_killed_between_any_two_writes_ends_where_an_undisturbed_one_does(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    cluster.apply(service("killed"), namespace=namespace)
    for num_writes in LIVES:
        local_operator.start("a", die_after=num_writes)
        eventually(lambda: not local_operator.running("a"), within_s=60)
    local_operator.start("a")
    wait_for(cluster, namespace, "Ready", "True", name="killed")
    cluster.apply(service("spared"), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True", name="spared")
    killed, spared = (children(cluster, namespace, name) for name in ("killed", "spared"))
    revisions = {name.rsplit("-", 1)[-1] for name in killed if name.startswith("configmaps/")}
    assert len(revisions) == 2, "one revision's settings, and the gateway's"
    assert list(killed.values()) == list(spared.values())


def test_a_stopped_operator_hands_over_at_once_and_a_killed_one_after_its_duration(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    local_operator.start("a")
    eventually(lambda: local_operator.leads("a"))
    local_operator.start("b")
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    assert local_operator.healthy("b") and not local_operator.leads("b")
    assert local_operator.metric("baton_operator_leader", "b") == 0
    local_operator.stop("a")
    lease = cluster.get("lease", ACCOUNT, namespace)
    assert lease is not None and lease["spec"]["holderIdentity"] in ("", "operator-b")
    eventually(lambda: local_operator.leads("b"))
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=3", "-n", namespace)
    decode = f"{names.LABEL_POOL}=decode"
    eventually(lambda: len(cluster.get_all("pods", namespace, decode)) == 3)
    local_operator.start("a")
    assert not local_operator.leads("a")
    local_operator.kill("b")
    cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=4", "-n", namespace)
    eventually(lambda: local_operator.leads("a"))
    eventually(lambda: len(cluster.get_all("pods", namespace, decode)) == 4)
    assert local_operator.forbidden() == []


def test_a_frozen_leader_that_wakes_up_ends_without_acting(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    local_operator.start("a")
    eventually(lambda: local_operator.leads("a"))
    local_operator.start("b")
    processes = cluster.processes
    processes.signal(local_operator.process("a"), signal.SIGSTOP)
    eventually(lambda: local_operator.leads("b"))
    processes.signal(local_operator.process("a"), signal.SIGCONT)
    eventually(lambda: not local_operator.running("a"))
    assert local_operator.leads("b")
    log = processes.log(local_operator.process("a")).read_text()
    assert "lease_lost" in log


def test_a_short_outage_is_waited_out_and_a_long_one_costs_one_exit(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    with WayToApi(local_operator.kubeconfig) as way:
        local_operator.kubeconfig = way.kubeconfig
        local_operator.start("a", lease_deadline_s=20, lease_duration_s=25)
        cluster.apply(service(), namespace=namespace)
        wait_for(cluster, namespace, "Ready", "True")
        way.close()
        cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=3", "-n", namespace)
        log = cluster.processes.log(local_operator.process("a"))
        eventually(lambda: "lease_not_renewed" in log.read_text())
        assert local_operator.healthy("a")
        way.open()
        decode = f"{names.LABEL_POOL}=decode"
        eventually(lambda: len(cluster.get_all("pods", namespace, decode)) == 3, within_s=60)
        assert local_operator.leads("a"), "the same process, which never ended"
        local_operator.stop("a")

        local_operator.start("b")
        eventually(lambda: local_operator.leads("b"))
        way.close()
        eventually(lambda: not local_operator.running("b"))
        local_operator.start("b")
        again = cluster.processes.log(local_operator.process("b"))
        eventually(lambda: "lease_not_acquired" in again.read_text())
        assert local_operator.healthy("b"), "a standby, for as long as it takes"
        cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=4", "-n", namespace)
        way.open()
        eventually(lambda: local_operator.leads("b"))
        eventually(lambda: len(cluster.get_all("pods", namespace, decode)) == 4, within_s=60)


def test_missing_rights_are_waited_for(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    cluster.kubectl("delete", "rolebinding", ACCOUNT, "-n", namespace)
    cluster.apply(service(), namespace=namespace)
    local_operator.start("a", lease_deadline_s=20, lease_duration_s=25)
    log = cluster.processes.log(local_operator.process("a"))
    eventually(lambda: "modelservices may not be listed" in log.read_text(), within_s=60)
    assert local_operator.leads("a")
    assert "ModelService" in (local_operator.probe("readyz", "a") or {})["unwatched"]
    local_operator.grant()
    wait_for(cluster, namespace, "Ready", "True")


@pytest.mark.redis
def test_a_service_lives_in_the_bundled_redis_as_a_user_of_its_own(
    cluster: Cluster, namespace: str, local_operator: Operator
) -> None:
    redis = RedisServer(password="of-the-chart")
    redis.start()
    try:
        url = f"redis://:{redis.password}@127.0.0.1:{redis.port}/0"
        local_operator.start("a", redis_url=url)
        cluster.apply(service(store={}), namespace=namespace)
        wait_for(cluster, namespace, "Ready", "True")
        found = cluster.get("modelservice", "chat", namespace)
        assert found is not None
        uid = found["metadata"]["uid"]
        secret = cluster.get("secret", names.internal_secret("chat", uid), namespace)
        assert secret is not None
        given = base64.b64decode(secret["data"]["redis-url"]).decode()
        with Redis.from_url(given, decode_responses=True) as own:
            eventually(lambda: _answers(own))
            own.set(f"baton:{uid}:k:x", "1")
            with pytest.raises(NoPermissionError):
                own.set("another", "1")
        cluster.kubectl("delete", "modelservice", "chat", "-n", namespace)
        with Redis.from_url(url, decode_responses=True) as admin:
            eventually(lambda: f"baton-{uid}" not in admin.acl_users())
    finally:
        redis.stop()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False


def test_a_namespace_goes_although_the_operator_is_gone(
    cluster: Cluster, gateway: HostGateway, nodes: None, namespace: str
) -> None:
    with cluster.namespace() as served:
        operator = Operator(cluster, namespace, served, gateway)
        operator.start("a")
        cluster.apply(service(), namespace=served)
        wait_for(cluster, served, "Ready", "True")
        operator.kill("a")
        cluster.kubectl("delete", "namespace", served, "--wait=false")
        eventually(lambda: cluster.get("namespace", served) is None, within_s=120)
