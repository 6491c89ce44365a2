"""A pool shrinks under streams: real gateway and workers of this host stand behind kwok's pods."""

from __future__ import annotations

import threading

import httpx

from baton_operator import names
from cluster.cluster import Cluster, eventually
from cluster.host_gateway import HostGateway
from cluster.operator_services import service, wait_for
from cluster.operator_under_test import Operator
from fakes.deployment import Deployment, deployment

NUM_TOKENS = 400
BODY = {"model": "baton-tiny", "prompt": "one", "max_tokens": NUM_TOKENS, "ignore_eos": True}


def pods(cluster: Cluster, namespace: str, role: str) -> set[str]:
    found = cluster.get_all("pods", namespace, f"{names.LABEL_ROLE}={role}")
    return {
        each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]
    }


class Streams:
    """Completions in progress, each in a thread."""

    def __init__(self, running: Deployment, count: int) -> None:
        self._url = running.url
        self.lengths: list[int] = []
        self._threads = [threading.Thread(target=self._one) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _one(self) -> None:
        answer = httpx.post(f"{self._url}/v1/completions", json=BODY, timeout=120)
        done = answer.json()["usage"]["completion_tokens"] if answer.status_code == 200 else -1
        self.lengths.append(done)

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join()
        return self.lengths


def test_streams_move_away_before_their_pod_is_removed(
    cluster: Cluster, namespace: str, local_operator: Operator, gateway: HostGateway
) -> None:
    local_operator.start()
    cluster.apply(service(), namespace=namespace)
    wait_for(cluster, namespace, "Ready", "True")
    found = cluster.get("modelservice", "chat", namespace)
    assert found is not None
    decode = pods(cluster, namespace, "decode")
    with deployment("--engine", "mock", "--mock-step-ms", "25") as running:
        for role in ("prefill", "decode"):
            for pod in pods(cluster, namespace, role):
                running.start_worker(pod, role)
        running.wait_ready(3)
        token = running.token_file.read_text().strip()
        gateway.real[found["metadata"]["uid"]] = (running.url, token)
        streams = Streams(running, 4)

        def busy() -> bool:
            loads = {row["id"]: row["load"].get("num_running", 0) for row in running.workers()}
            return all(loads[pod] for pod in decode)

        eventually(busy)
        cluster.kubectl("scale", "workerpool/chat-decode", "--replicas=1", "-n", namespace)
        eventually(lambda: len(pods(cluster, namespace, "decode")) == 1, within_s=90)
        [removed] = decode - pods(cluster, namespace, "decode")
        running.kill(removed)
        assert streams.join() == [NUM_TOKENS] * 4
    wait_for(cluster, namespace, "Ready", "True")
