"""Whatever a valid service says, its manifests are ones that an API server takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings

from baton_operator import kinds, names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.revision_config import revision_config
from baton_operator.resources.shared import children
from baton_operator.resources.worker_deployment import workload
from fakes.model_services import contexts

_LABEL_NAME = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?")
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
REVISION = "r1a2b3c4d"


def everything(context: Context) -> list[Manifest]:
    jobs = [fetch_job(context)] if context.spec.model.needs_fetch else []
    return [
        *children(context),
        revision_config(context, REVISION),
        *(workload(context, pool, REVISION, 2) for pool in context.spec.pools),
        *jobs,
    ]


def templates(manifest: Manifest) -> list[Manifest]:
    """The pod templates in a manifest."""
    spec = manifest.get("spec", {})
    groups = spec.get("leaderWorkerTemplate", {})
    found = [spec.get("template"), groups.get("leaderTemplate"), groups.get("workerTemplate")]
    return [each for each in found if each is not None]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


@given(contexts())
@settings(max_examples=25)
def test_every_name_is_a_dns_label_and_each_is_given_once(context: Context) -> None:
    seen = [(each["kind"], each["metadata"]["name"]) for each in everything(context)]
    assert len(seen) == len(set(seen))
    for _, name in seen:
        assert len(name) <= 63 and _DNS_LABEL.fullmatch(name)


@given(contexts())
@settings(max_examples=25)
def test_every_label_is_valid_and_says_whose_it_is(context: Context) -> None:
    for manifest in everything(context):
        every = [manifest, *templates(manifest)]
        for labels in (each["metadata"]["labels"] for each in every):
            assert labels[names.LABEL_SERVICE] == context.name
            for name, value in labels.items():
                assert _LABEL_NAME.fullmatch(name)
                assert len(value) <= 63 and _LABEL_VALUE.fullmatch(value)


@given(contexts())
@settings(max_examples=25)
def test_manifests_are_complete_without_nulls_and_status(context: Context) -> None:
    for manifest in everything(context):
        assert manifest.keys() >= {"apiVersion", "kind", "metadata"}
        assert "status" not in manifest
        assert manifest["metadata"]["namespace"] == "models"
        assert None not in leaves(manifest)
        kind = kinds.by_name(manifest["kind"])
        assert kind.api_version == manifest["apiVersion"]


@given(contexts())
@settings(max_examples=25)
def test_the_service_owns_everything_and_waits_for_nothing(context: Context) -> None:
    for manifest in everything(context):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (context.service.uid, True)
        assert owner["blockOwnerDeletion"] is False
        assert "finalizers" not in manifest["metadata"]


@given(contexts())
@settings(max_examples=25)
def test_selectors_pick_the_pods_they_are_for(context: Context) -> None:
    manifests = everything(context)
    pods = [each["metadata"]["labels"] for manifest in manifests for each in templates(manifest)]
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            (labels,) = [each["metadata"]["labels"] for each in templates(manifest)]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
        elif manifest["kind"] in ("PodDisruptionBudget", "NetworkPolicy", "Service"):
            spec = manifest["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods)


@given(contexts())
@settings(max_examples=25)
def test_one_deployment_never_selects_the_pods_of_another(context: Context) -> None:
    deployments = [
        each
        for each in (
            *everything(context),
            *(workload(context, pool, "r00000000", 1) for pool in context.spec.pools),
        )
        if each["kind"] == "Deployment"
    ]
    for one in deployments:
        wanted = one["spec"]["selector"]["matchLabels"]
        picked = [
            each["metadata"]["name"]
            for each in deployments
            if wanted.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert picked == [one["metadata"]["name"]]


@given(contexts())
@settings(max_examples=25)
def test_the_same_service_makes_the_same_manifests(context: Context) -> None:
    assert everything(context) == everything(context)
    assert repr(everything(context)) == repr(everything(context))


@given(contexts())
@settings(max_examples=25)
def test_what_a_pod_mounts_is_there(context: Context) -> None:
    manifests = everything(context)
    made = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    for template in (each for manifest in manifests for each in templates(manifest)):
        spec = template["spec"]
        volumes = {each["name"]: each for each in spec["volumes"]}
        assert len(volumes) == len(spec["volumes"])
        for container in spec["containers"]:
            assert {each["name"] for each in container["volumeMounts"]} <= volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
        assert ("Secret", names.internal_secret(context.name, context.service.uid)) in made
        assert ("ServiceAccount", spec["serviceAccountName"]) in made


@given(contexts())
@settings(max_examples=25)
def test_no_overlay_takes_away_what_baton_needs(context: Context) -> None:
    for manifest in everything(context):
        if manifest["kind"] != "Deployment":
            continue
        (template,) = templates(manifest)
        (container, *_) = template["spec"]["containers"]
        assert container["name"] == "baton"
        assert template["spec"]["enableServiceLinks"] is False
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe].keys() & {"httpGet", "exec", "tcpSocket", "grpc"} == {"httpGet"}
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        mounted = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
        assert mounted["/etc/baton-internal"]["secret"]["secretName"]
        assert mounted["/etc/baton"]["configMap"]["name"]
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert ports.items() >= (
            {"health": 8081, "tcp-baton": 8082}.items()
            if template["metadata"]["labels"][names.LABEL_COMPONENT] == "worker"
            else {"http": 8000, "grpc": 9000}.items()
        )
        env = {each["name"]: each for each in container["env"]}
        if "BATON_WORKER__WORKER_ID" in env and names.LABEL_POOL in template["metadata"]["labels"]:
            assert "valueFrom" in env["BATON_WORKER__WORKER_ID"]
