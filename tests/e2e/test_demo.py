"""The chart's demo on a real node, each worker with its Ray: a chat, and KV from pod to pod."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cluster.cluster import Cluster, eventually
from e2e import images
from e2e.node import Node
from e2e.service import IMAGE, PATIENCE_S, Service, install, restricted
from e2e.story import told

_ACCEPTED = 'baton_handoffs_total{outcome="accepted"}'


@pytest.mark.timeout(1200)
def test_demo_answers_chats_with_kv_from_another_pod(
    node: tuple[Node, Cluster], tmp_path: Path
) -> None:
    started, cluster = node
    started.import_image(images.of_this_machine(IMAGE, tmp_path / "baton.tar", ["baton"]))
    with restricted(cluster) as namespace, told(cluster, namespace):
        install(cluster, namespace, enabled=True)
        demo = Service(cluster, namespace, "demo")
        demo.wait_ready()
        # From a pod, by the Service's name.
        assert "Succeeded" in cluster.helm("test", "baton", "-n", namespace)
        # From the node, by its address.
        assert demo.chat("Who are you?")
        _assert_kv_over_tcp(demo)
        cluster.helm("uninstall", "baton", "-n", namespace)
        eventually(lambda: not _pods_of(demo), within_s=PATIENCE_S, every_s=1)


def _assert_kv_over_tcp(demo: Service) -> None:
    # Prompts that nobody has seen: it is the router's choice which ones are worth a handoff.
    topics = itertools.count()

    def hands_over() -> bool:
        demo.chat(f"Topic {next(topics)}. " + "Tell me what you know about it. " * 40)
        return demo.metric(_ACCEPTED) > 0 and all(row["links"] for row in demo.seen_workers())

    eventually(hands_over, within_s=PATIENCE_S)
    assert demo.metric("baton_handoff_kv_bytes_total") > 0
    rows = {row["role"]: row for row in demo.seen_workers()}
    prefill, decode = rows["prefill"], rows["decode"]
    pods = [*demo.pods("worker", pool="prefill"), *demo.pods("worker", pool="decode")]
    assert [pod["metadata"]["name"] for pod in pods] == [prefill["id"], decode["id"]]
    addresses = {row["address"].partition(":")[0] for row in rows.values()}
    assert addresses == {pod["status"]["podIP"] for pod in pods} and len(addresses) == 2
    for row, peer in ((prefill, decode), (decode, prefill)):
        (link,) = row["links"]
        assert link["peer"] == peer["id"]
        assert (link["transport"], link["fabric"], link["is_up"]) == ("nixl", "tcp", True)


def _pods_of(demo: Service) -> list[str]:
    return [p["metadata"]["name"] for p in (*demo.pods("worker"), *demo.pods("gateway"))]
