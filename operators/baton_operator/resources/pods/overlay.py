"""The user's podTemplate over a pod that Baton made, without losing what Baton needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton_operator.resources.context import Manifest
from baton_operator.resources.pods.merge import merge_pod_spec
from baton_operator.types.pod_template import PodTemplate

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_HANDLERS = ("httpGet", "exec", "tcpSocket", "grpc")


def lay_over(template: Manifest, over: PodTemplate, path: str) -> Manifest:
    """`template` (metadata and spec, Baton's container first) with `over` laid on it.

    Stays as it was: the pod's labels and annotations, which selectors and others read; probes but
    for their times; ports; environment that comes from the pod's fields and from Secrets; volumes
    from ConfigMaps and Secrets and where they are mounted; at least the time to drain. `path` is
    where `over` stands in the spec. Raises ConfigError for what cannot be merged.
    """
    own = template["metadata"]
    base = template["spec"]
    spec = merge_pod_spec(base, over.spec, f"{path}.spec")
    _keep_pod(base, spec)
    spec["containers"][0] = _kept_container(base["containers"][0], spec["containers"][0])
    annotations = {**over.metadata.annotations, **own.get("annotations", {})}
    return {
        "metadata": {
            "labels": {**over.metadata.labels, **own["labels"]},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
    }


def _keep_pod(base: Manifest, spec: Manifest) -> None:
    spec["containers"] = spec.get("containers") or [base["containers"][0]]
    if "volumes" in base:
        needed = [each for each in base["volumes"] if "configMap" in each or "secret" in each]
        spec["volumes"] = _with(spec.get("volumes", []), needed, "name")
    spec["enableServiceLinks"] = base["enableServiceLinks"]
    grace = spec.get("terminationGracePeriodSeconds")
    needed_grace = base["terminationGracePeriodSeconds"]
    if not isinstance(grace, int) or grace < needed_grace:
        spec["terminationGracePeriodSeconds"] = needed_grace


def _kept_container(base: Manifest, merged: Mapping[str, Any]) -> Manifest:
    container = dict(merged)
    for probe in PROBES:
        if probe in base:
            times = container.get(probe)
            times = times if isinstance(times, Mapping) else base[probe]
            kept = {name: value for name, value in times.items() if name not in _HANDLERS}
            container[probe] = {"httpGet": base[probe]["httpGet"], **kept}
    container["ports"] = _with(container.get("ports", []), base["ports"], "containerPort")
    container["env"] = _with(
        container.get("env", []), [each for each in base["env"] if "valueFrom" in each], "name"
    )
    container["volumeMounts"] = _with(
        container.get("volumeMounts", []),
        [each for each in base["volumeMounts"] if each["mountPath"].startswith("/etc/baton")],
        "mountPath",
    )
    return container


def _with(items: list[Any], needed: list[Manifest], key: str) -> list[Any]:
    """`items` with each of `needed` in the place of whatever has its key, or at the end."""
    result = list(items)
    for each in needed:
        place = next((n for n, item in enumerate(result) if item.get(key) == each[key]), None)
        if place is None:
            result.append(each)
        else:
            result[place] = each
    return result
