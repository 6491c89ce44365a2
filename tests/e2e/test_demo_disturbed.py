"""What happens to a service in production, while clients stream: none of them notices.

Greedy and in float64, so each answer has one right sequence of tokens, wherever it was computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.cluster import Cluster, CommandFailed, eventually
from e2e import images, service
from e2e.load import Load, bodies, undisturbed
from e2e.node import NAME, Node
from e2e.service import IMAGE, OPERATOR, PATIENCE_S, Service
from e2e.story import told

pytestmark = pytest.mark.timeout(1500)
_CLIENTS = 4
_REQUESTS = bodies("baton-tiny", _CLIENTS)
_REPLAYS = "baton_retries_total"


@pytest.fixture(scope="module")
def calm(node: tuple[Node, Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started, cluster = node
    archive = tmp_path_factory.mktemp("images") / "baton.tar"
    started.import_image(images.of_this_machine(IMAGE, archive, ["baton"]))
    with service.restricted(cluster) as namespace, told(cluster, namespace):
        service.install(cluster, namespace)
        cluster.apply(service.manifest("calm"), namespace=namespace)
        calm = Service(cluster, namespace, "calm")
        calm.wait_ready()
        yield calm
        cluster.helm("uninstall", "baton", "-n", namespace)


@pytest.fixture(scope="module")
def expected(calm: Service) -> list[list[int]]:
    return undisturbed(calm.url, _REQUESTS)


@contextmanager
def _nobody_notices(calm: Service, expected: list[list[int]]) -> Iterator[Load]:
    """Clients stream from before the disturbance until each has had another answer after it."""
    with told(calm.cluster, calm.namespace):
        with Load(calm.url, _REQUESTS, expected) as load:
            eventually(lambda: load.num_done >= 1, within_s=PATIENCE_S)
            yield load
            until = load.num_done + 2 * _CLIENTS
            eventually(lambda: load.num_done >= until, within_s=PATIENCE_S)
        assert load.broken == []


def test_pool_is_scaled_up_and_down(calm: Service, expected: list[list[int]]) -> None:
    with _nobody_notices(calm, expected):
        calm.scale("decode", 3)
        calm.wait_busy(*calm.workers("decode"))
        calm.scale("decode", 1)
    assert calm.is_ready()


def test_new_revision_takes_over(calm: Service, expected: list[list[int]]) -> None:
    before = calm.get()["status"]["revision"]["current"]
    old = calm.workers("prefill") | calm.workers("decode")
    with _nobody_notices(calm, expected):
        calm.patch({"op": "add", "path": "/spec/pools/1/engine/maxSequences", "value": 64})
        eventually(lambda: _is_settled(calm), within_s=PATIENCE_S, every_s=1)
    assert calm.get()["status"]["revision"]["current"] != before
    new = calm.workers("prefill") | calm.workers("decode")
    assert len(new) == 2 and not new & old
    assert {row["id"] for row in calm.seen_workers()} == new


def _is_settled(calm: Service) -> bool:
    """Whether one revision is left, which serves."""
    revision = calm.get()["status"]["revision"]
    there = {pod["metadata"]["labels"]["baton.dev/revision"] for pod in calm.pods("worker")}
    return calm.is_ready() and "updating" not in revision and there == {revision["current"]}


def test_revision_that_never_works_is_taken_back(calm: Service, expected: list[list[int]]) -> None:
    before = calm.get()["status"]["revision"]["current"]
    old = calm.workers("prefill") | calm.workers("decode")
    wrong = {"name": "BATON_WORKER__HEALTH_PORT", "value": "none"}
    variables = "/spec/pools/1/podTemplate/spec/containers/0/env/1"
    with _nobody_notices(calm, expected):
        calm.patch({"op": "add", "path": variables, "value": wrong})
        try:
            eventually(lambda: calm.says("Degraded", "CrashLoop"), within_s=PATIENCE_S, every_s=1)
        finally:
            # For what comes after this test, too.
            calm.patch({"op": "remove", "path": variables})
        eventually(lambda: _is_settled(calm), within_s=PATIENCE_S, every_s=1)
    assert calm.get()["status"]["revision"]["current"] == before
    assert calm.workers("prefill") | calm.workers("decode") == old


def test_worker_is_deleted_by_force(calm: Service, expected: list[list[int]]) -> None:
    with _nobody_notices(calm, expected):
        calm.scale("decode", 2)
        for pool, count in (("decode", 2), ("prefill", 1)):
            victim = min(calm.workers(pool))
            if pool == "decode":
                calm.wait_busy(victim)
            calm.kubectl("delete", "pod", victim, "--force", "--grace-period=0")
            eventually(lambda: victim not in calm.workers(pool), within_s=PATIENCE_S)  # noqa: B023
            calm.wait_workers(pool, count)
        calm.scale("decode", 1)
    calm.wait_ready()


def test_node_is_drained_as_far_as_the_budget_lets(
    calm: Service, expected: list[list[int]]
) -> None:
    """There is no other node, so nobody comes for those that are evicted until it takes pods again.

    Evictions are what a node's drain, an autoscaler and the notice of a spot node come down to.
    """
    with _nobody_notices(calm, expected) as load:
        calm.scale("decode", 2)
        before = {pool: calm.workers(pool) for pool in ("prefill", "decode")}
        calm.wait_busy(*before["decode"])
        eventually(lambda: _may_be_evicted(calm, "decode") == 1, within_s=PATIENCE_S)
        workers = "baton.dev/service=calm,app.kubernetes.io/component=worker"
        with pytest.raises(CommandFailed, match="violate the pod's disruption budget"):
            # It asks again and again for the one that it may not evict yet.
            calm.cluster.kubectl(
                *("drain", NAME, f"--pod-selector={workers}", "--delete-emptydir-data"),
                "--timeout=15s",
            )
        # Of each pool one worker went, and of two one stays for as long as no other is ready.
        eventually(lambda: not calm.workers("prefill") & before["prefill"], within_s=PATIENCE_S)
        eventually(lambda: len(calm.workers("decode") & before["decode"]) == 1, within_s=PATIENCE_S)
        assert _may_be_evicted(calm, "decode") == 0
        until = load.num_done + _CLIENTS
        eventually(lambda: load.num_done >= until, within_s=PATIENCE_S)
        calm.cluster.kubectl("uncordon", NAME)
        calm.wait_workers("decode", 2)
        calm.wait_workers("prefill", 1)
        calm.scale("decode", 1)
    calm.wait_ready()


def _may_be_evicted(calm: Service, pool: str) -> int:
    budget = calm.cluster.get("poddisruptionbudget", f"{calm.name}-{pool}", calm.namespace)
    allowed: int = (budget or {}).get("status", {}).get("disruptionsAllowed", 0)
    return allowed


def test_worker_dies_with_its_streams(
    node: tuple[Node, Cluster], calm: Service, expected: list[list[int]]
) -> None:
    """As when memory runs out: killed without a word, and started again in its pod."""
    before = calm.metric(_REPLAYS)
    with _nobody_notices(calm, expected):
        calm.scale("decode", 2)
        decode = calm.workers("decode")
        # Its streams may just have ended: then another one dies.
        while calm.metric(_REPLAYS) == before:
            victims = eventually(lambda: calm.busy() & decode, within_s=PATIENCE_S)
            victim = min(victims)
            restarts = _container(calm, victim)["restartCount"]
            container = _container(calm, victim)["containerID"].removeprefix("containerd://")
            node[0].ctr("tasks", "kill", "--signal", "SIGKILL", container)
            eventually(
                lambda: _container(calm, victim)["restartCount"] > restarts,  # noqa: B023
                within_s=PATIENCE_S,
            )
            calm.wait_workers("decode", 2)
        calm.scale("decode", 1)
    calm.wait_ready()


def _container(calm: Service, worker: str) -> dict[str, Any]:
    (pod,) = [p for p in calm.pods("worker") if p["metadata"]["name"] == worker]
    status: dict[str, Any] = pod["status"]["containerStatuses"][0]
    return status


def test_operator_is_restarted_in_the_middle_of_something(
    calm: Service, expected: list[list[int]]
) -> None:
    prefill, decode = calm.workers("prefill"), calm.workers("decode")
    with _nobody_notices(calm, expected):
        calm.kubectl("scale", "workerpool/calm-decode", "--replicas=2")
        calm.kubectl(
            *("delete", "pod", "-l", "app.kubernetes.io/component=operator", "--force"),
            "--grace-period=0",
        )
        calm.wait_workers("decode", 2)
        # It has made one, and replaced none.
        assert calm.workers("prefill") == prefill and calm.workers("decode") > decode
        calm.kubectl("rollout", "restart", f"deployment/{OPERATOR}")
        calm.scale("decode", 1)
    calm.wait_ready()


def test_redis_and_gateways_are_restarted(calm: Service, expected: list[list[int]]) -> None:
    """Redis comes back empty, without the service's user; a gateway that starts then finds all."""
    old = {pod["metadata"]["name"] for pod in calm.pods("gateway")}
    with _nobody_notices(calm, expected):
        calm.kubectl("delete", "pod", "baton-redis-0", "--force", "--grace-period=0")
        calm.kubectl("rollout", "restart", "deployment/calm-gateway")
        eventually(lambda: _is_replaced(calm, old), within_s=PATIENCE_S, every_s=1)
    workers = calm.workers("prefill") | calm.workers("decode")
    assert {row["id"] for row in calm.seen_workers()} == workers


def _is_replaced(calm: Service, old: set[str]) -> bool:
    now = calm.pods("gateway")
    is_new = not old & {pod["metadata"]["name"] for pod in now}
    return is_new and [service.is_pod_ready(pod) for pod in now] == [True]
