"""The metrics APIs of a cluster, as an adapter and a metrics-server would serve them.

A server of this host stands behind the API server's aggregator, which reaches it through a Service
of type ExternalName: for the API server of tests, `localhost` is here.
"""

from __future__ import annotations

import base64
import datetime
import ssl
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from kubernetes import client

from cluster.certificates import Authority
from cluster.cluster import Cluster, eventually
from fakes.loopback_server import LoopbackServer, json_handler

EXTERNAL = "external.metrics.k8s.io"
CUSTOM = "custom.metrics.k8s.io"
RESOURCE = "metrics.k8s.io"
_VERSIONS = {EXTERNAL: "v1beta1", CUSTOM: "v1beta2", RESOURCE: "v1beta1"}
_SERVICE = "metrics-of-tests"
Answer = dict[str, Any]


class MetricsApi:
    """Within it, autoscalers find what the test says of a namespace; missing elsewhere.

    `external`: values by (namespace, metric). `of_pods`: values by (namespace, metric), then by
    pod. `cpu`: of the one container of each pod, in thousandths of a core, by namespace, then pod.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.external: dict[tuple[str, str], int] = {}
        self.of_pods: dict[tuple[str, str], dict[str, int]] = {}
        self.cpu: dict[str, dict[str, int]] = {}
        self._cluster = cluster
        host = f"{_SERVICE}.default.svc"
        authority = Authority(folder)
        pair = authority.issue("metrics", host, hosts=[host])
        self._authority = authority.pair.certificate.read_bytes()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server = LoopbackServer(json_handler(self._answer), context)

    def __enter__(self) -> Self:
        self._server.__enter__()
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _SERVICE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        }
        self._cluster.apply(service, namespace="default")
        self._cluster.apply(*(self._registration(group, self._server.port) for group in _VERSIONS))
        for group in _VERSIONS:
            eventually(lambda group=group: self._available(group))
        return self

    def __exit__(self, *exc: object) -> None:
        self._cluster.kubectl("delete", *(f"apiservice/{_name(group)}" for group in _VERSIONS))
        self._cluster.kubectl("delete", "service", _SERVICE, "-n", "default")
        self._server.__exit__(*exc)

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Answer]:
        said = self._found(path)
        if said is None:
            return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
        return 200, said

    def _found(self, path: str) -> Answer | None:
        """None: there is none such."""
        asked = urlsplit(path)
        match unquote(asked.path).strip("/").split("/"):
            case ["apis", group, _]:
                return _resources(group)
            case ["apis", group, _, "namespaces", namespace, metric] if group == EXTERNAL:
                return self._external(namespace, metric)
            case ["apis", group, _, "namespaces", namespace, "pods", "*", metric]:
                [selector] = parse_qs(asked.query)["labelSelector"]
                return self._of_pods(namespace, metric, selector)
            case ["apis", group, _, "namespaces", namespace, "pods"] if group == RESOURCE:
                return self._cpu(namespace)
        return None

    def _external(self, namespace: str, metric: str) -> Answer | None:
        value = self.external.get((namespace, metric))
        if value is None:
            return None
        found = {"metricName": metric, "metricLabels": {}, "timestamp": _now(), "value": str(value)}
        return _list(EXTERNAL, "ExternalMetricValueList", [found])

    def _of_pods(self, namespace: str, metric: str, selector: str) -> Answer:
        values = self.of_pods.get((namespace, metric), {})
        core = client.CoreV1Api(self._cluster.api)
        pods = core.list_namespaced_pod(namespace, label_selector=selector).items
        found = [
            {
                "describedObject": {"kind": "Pod", "namespace": namespace, "name": pod},
                "metric": {"name": metric},
                "timestamp": _now(),
                "value": str(values[pod]),
            }
            for pod in (each.metadata.name for each in pods)
            if pod in values
        ]
        return _list(CUSTOM, "MetricValueList", found)

    def _cpu(self, namespace: str) -> Answer:
        found = [
            {
                "metadata": {"name": pod, "namespace": namespace},
                "timestamp": _now(),
                "window": "1s",
                "containers": [{"name": "baton", "usage": {"cpu": f"{cpu}m", "memory": "1Gi"}}],
            }
            for pod, cpu in self.cpu.get(namespace, {}).items()
        ]
        return _list(RESOURCE, "PodMetricsList", found)

    def _registration(self, group: str, port: int) -> Answer:
        return {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": _name(group)},
            "spec": {
                "group": group,
                "version": _VERSIONS[group],
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": "default", "name": _SERVICE, "port": port},
                "caBundle": base64.b64encode(self._authority).decode(),
            },
        }

    def _available(self, group: str) -> bool:
        found = self._cluster.get("apiservice", _name(group)) or {}
        return any(
            each["type"] == "Available" and each["status"] == "True"
            for each in found.get("status", {}).get("conditions", ())
        )


def _resources(group: str) -> Answer:
    name, kind = {
        EXTERNAL: ("any", "ExternalMetricValueList"),
        CUSTOM: ("pods/any", "MetricValueList"),
        RESOURCE: ("pods", "PodMetrics"),
    }[group]
    resource = {
        "name": name,
        "singularName": "",
        "namespaced": True,
        "kind": kind,
        "verbs": ["get", "list"],
    }
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{_VERSIONS[group]}",
        "resources": [resource],
    }


def _list(group: str, kind: str, items: list[Answer]) -> Answer:
    version = f"{group}/{_VERSIONS[group]}"
    return {"kind": kind, "apiVersion": version, "metadata": {}, "items": items}


def _name(group: str) -> str:
    return f"{_VERSIONS[group]}.{group}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
