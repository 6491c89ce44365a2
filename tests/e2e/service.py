"""The chart and a service of its operator, as somebody with kubectl, helm and curl sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cluster.cluster import Cluster, Manifest, eventually

CHART = Path(__file__).resolve().parents[2] / "deploy/helm/baton"
IMAGE = "docker.io/library/baton:e2e"
OPERATOR = "baton-operator"
# All pods of one machine of two cores, which does other things too: nothing here is about time.
PATIENCE_S = 400.0
_SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}}


@contextmanager
def restricted(cluster: Cluster) -> Iterator[str]:
    """A namespace that admits restricted pods alone."""
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        yield namespace


def install(cluster: Cluster, namespace: str, **demo: Any) -> None:
    """The chart with the node's image; returns when operator and Redis are ready."""
    image = {"repository": "baton", "tag": "e2e", "pullPolicy": "Never"}
    values = {
        "image": image,
        "operator": {"resources": _SMALL},
        "redis": {"image": image, "resources": _SMALL},
        "demo": {"workerResources": _SMALL, "gatewayResources": _SMALL, **demo},
    }
    command = ("install", "baton", str(CHART), "-n", namespace, "--set-json")
    cluster.helm(*command, ",".join(f"{k}={json.dumps(v)}" for k, v in values.items()))
    for workload in (f"deployment/{OPERATOR}", "statefulset/baton-redis"):
        rolled(cluster, namespace, workload)


def rolled(cluster: Cluster, namespace: str, workload: str) -> None:
    """Until all pods of a workload are its newest and ready."""
    cluster.kubectl("rollout", "status", workload, "-n", namespace, "--timeout=90s")


def manifest(name: str) -> Manifest:
    """A service of one prefill and one decode worker whose tokens do not depend on the batch.

    Its workers have no Ray: four of them at once would be some thirty processes on two cores.
    """
    without_ray = {"name": "baton", "env": [{"name": "BATON_WORKER__RAY", "value": "false"}]}
    pools = [
        {
            "name": role,
            "role": role,
            "resources": _SMALL,
            "engine": {"kvMemory": "64Mi", "numThreads": 1},
            "drainSeconds": 90,
            "podTemplate": {"spec": {"containers": [without_ray]}},
        }
        for role in ("prefill", "decode")
    ]
    return {
        "apiVersion": "baton.dev/v1alpha1",
        "kind": "ModelService",
        "metadata": {"name": name},
        "spec": {
            "imagePullPolicy": "Never",
            "model": {"source": "baton-tiny", "dtype": "float64"},
            "pools": pools,
            "gateway": {"replicas": 1, "resources": _SMALL, "drainTimeoutSeconds": 120},
        },
    }


def is_pod_ready(pod: Manifest) -> bool:
    """As its probes say; a pod that ends is not."""
    conditions = pod["status"].get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


class Service:
    """One ModelService."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name

    @property
    def url(self) -> str:
        """Of its Service's address, which the node forwards to the gateways as for pods."""
        found = self.cluster.get("service", f"{self.name}-gateway", self.namespace)
        assert found
        return f"http://{found['spec']['clusterIP']}:8000"

    def kubectl(self, *args: str) -> str:
        return self.cluster.kubectl(*args, "-n", self.namespace)

    def get(self) -> Manifest:
        found = self.cluster.get("modelservice", self.name, self.namespace)
        assert found
        return found

    def patch(self, *changes: Manifest) -> None:
        """Changes of its manifest, as JSON Patch writes them."""
        self.kubectl("patch", f"bms/{self.name}", "--type=json", "-p", json.dumps(changes))

    def says(self, condition: str, reason: str | None = None) -> bool:
        """Whether the condition is True of the newest spec, and for this reason if one is given."""
        found = self.get()
        status = found.get("status", {})
        return status.get("observedGeneration") == found["metadata"]["generation"] and any(
            (each["type"], each["status"]) == (condition, "True")
            and reason in (None, each["reason"])
            for each in status["conditions"]
        )

    def is_ready(self) -> bool:
        """What `kubectl wait --for=condition=Ready` goes by."""
        return self.says("Ready")

    def wait_ready(self) -> None:
        eventually(self.is_ready, within_s=PATIENCE_S, every_s=1)

    def pods(self, component: str, **labels: str) -> list[Manifest]:
        """Those of workers or gateways that are there, also while they end."""
        wanted = {"service": self.name, **labels}
        selector = ",".join(f"baton.dev/{key}={value}" for key, value in wanted.items())
        selector += f",app.kubernetes.io/component={component}"
        return self.cluster.get_all("pods", self.namespace, selector)

    def workers(self, pool: str) -> set[str]:
        """Names of a pool's pods."""
        return {pod["metadata"]["name"] for pod in self.pods("worker", pool=pool)}

    def scale(self, pool: str, count: int) -> None:
        """Returns when the pool has so many ready workers and no pod beyond them."""
        name = f"{self.name}-{pool}"
        self.kubectl("scale", f"workerpool/{name}", f"--replicas={count}")
        self.wait_workers(pool, count)

    def wait_workers(self, pool: str, count: int) -> None:
        """Until the pool has so many pods, all of them ready, and says so."""

        def are_there() -> bool:
            found = self.cluster.get("workerpool", f"{self.name}-{pool}", self.namespace)
            status = (found or {}).get("status", {})
            told = status.get("replicas"), status.get("readyReplicas")
            ready = [is_pod_ready(pod) for pod in self.pods("worker", pool=pool)]
            return told == (count, count) and ready == [True] * count

        eventually(are_there, within_s=PATIENCE_S, every_s=1)

    def seen_workers(self) -> list[dict[str, Any]]:
        """What a gateway knows of the workers."""
        rows: list[dict[str, Any]] = self._ask("/v1/baton/workers").json()["data"]
        return rows

    def busy(self) -> set[str]:
        """Workers that run sequences now."""
        return {row["id"] for row in self.seen_workers() if row["load"].get("num_running")}

    def wait_busy(self, *workers: str) -> None:
        """Until each of these has been busy, perhaps one after the other."""
        seen: set[str] = set()

        def were_busy() -> bool:
            seen.update(self.busy())
            return seen >= set(workers)

        eventually(were_busy, within_s=PATIENCE_S)

    def metric(self, name: str) -> float:
        """Sum of the series of the gateway whose text begins so."""
        lines = self._ask("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def chat(self, prompt: str) -> str:
        """A short answer of it."""
        body = {
            "model": "baton-tiny",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 24,
        }
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def _ask(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30).raise_for_status()
