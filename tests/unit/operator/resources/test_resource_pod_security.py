"""Pods with the defaults are what a namespace that enforces `restricted` takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from baton_operator.resources.context import Context
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.shared import children
from baton_operator.resources.worker_deployment import workload
from fakes.model_services import context_of, contexts
from fakes.pod_security import violations


def pods(context: Context) -> list[dict[str, Any]]:
    made = [
        *children(context),
        *(workload(context, pool, "r1", 1) for pool in context.spec.pools),
        fetch_job(context),
    ]
    return [each["spec"]["template"] for each in made if "template" in each.get("spec", {})]


@given(contexts())
@settings(max_examples=25)
def test_every_service_on_tcp_without_host_paths_is_restricted(context: Context) -> None:
    if context.spec.transport.profile != "tcp" or context.spec.model.cache.type == "HostPath":
        return
    for template in pods(context):
        assert violations(template) == []


def test_a_host_path_is_what_restricted_refuses_and_nothing_else() -> None:
    cache = {"type": "HostPath", "path": "/mnt/models"}
    context = context_of({"model": {"source": "org/model", "cache": cache}})
    found = {problem for template in pods(context) for problem in violations(template)}
    assert found == {"volume models: hostPath"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "volume x: hostPath"),
        ({"securityContext": {"runAsUser": 0, "runAsNonRoot": True}}, "pod: runAsUser 0"),
        ({"securityContext": {"sysctls": [{"name": "net.core.somaxconn"}]}}, "sysctl"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
        ({"containers": [{"name": "c"}]}, "c: allowPrivilegeEscalation"),
        (
            {"containers": [{"name": "c", "securityContext": {"privileged": True}}]},
            "c: privileged",
        ),
        ({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}, "c: hostPort 80"),
    ],
)
def test_the_checker_sees_what_restricted_refuses(change: dict[str, Any], problem: str) -> None:
    found = violations({"metadata": {}, "spec": {"containers": [], **change}})
    assert any(each.startswith(problem) or problem in each for each in found)
