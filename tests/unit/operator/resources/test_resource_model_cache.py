"""Where the model comes from: what is mounted, what is downloaded, and by whom."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator import names
from baton_operator.resources.context import Context
from baton_operator.resources.gateway import gateway_template
from baton_operator.resources.pods.model_cache import claim, fetch_job, fetch_job_name
from baton_operator.resources.pods.worker import worker_template
from baton_operator.resources.shared import children
from fakes.model_services import context_of, environment, mounts

MODELS = "/var/lib/baton/models"
NEW = {"type": "NewClaim", "size": "100Gi", "storageClassName": "nfs"}
OWN = {"type": "ExistingClaim", "claimName": "weights"}
NODES = {"type": "HostPath", "path": "/mnt/models"}


def model(cache: dict[str, Any], **more: Any) -> Context:
    return context_of({"model": {"source": "org/model", "cache": cache, **more}})


def readers(context: Context) -> list[dict[str, Any]]:
    """Pod templates of a worker and of a gateway."""
    return [worker_template(context, context.spec.pools[0], "r1"), gateway_template(context)]


def fetching(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = fetch_job(context)["spec"]["template"]
    return found


@pytest.mark.parametrize(("cache", "name"), [(NEW, "demo-model"), (OWN, "weights")])
def test_from_a_claim_all_read_what_one_job_has_written(cache: dict[str, Any], name: str) -> None:
    context = model(cache)
    for template in readers(context):
        volume, read_only = mounts(template)[MODELS]
        assert volume["persistentVolumeClaim"] == {"claimName": name}
        assert read_only
        assert environment(template)["HF_HUB_OFFLINE"] == "1"
    job = fetching(context)
    volume, read_only = mounts(job)[MODELS]
    assert volume["persistentVolumeClaim"]["claimName"] == name and not read_only
    assert "HF_HUB_OFFLINE" not in environment(job)
    assert environment(job)["HF_HUB_CACHE"] == environment(template)["HF_HUB_CACHE"]


def test_per_pod_each_downloads_into_a_folder_of_its_own() -> None:
    for template in readers(model({"type": "PerPod", "size": "40Gi"})):
        volume, read_only = mounts(template)[MODELS]
        assert volume["emptyDir"] == {"sizeLimit": "40Gi"} and not read_only
        assert "HF_HUB_OFFLINE" not in environment(template)


def test_on_the_nodes_folder_the_first_pod_downloads() -> None:
    for template in readers(model(NODES)):
        volume, read_only = mounts(template)[MODELS]
        assert volume["hostPath"] == {"path": "/mnt/models", "type": "DirectoryOrCreate"}
        assert not read_only
        assert "HF_HUB_OFFLINE" not in environment(template)


@pytest.mark.parametrize("cache", [OWN, NODES])
def test_a_model_that_lies_there_is_only_read(cache: dict[str, Any]) -> None:
    context = context_of({"model": {"source": "/llama", "cache": cache}})
    assert not context.spec.model.needs_fetch
    for template in readers(context):
        assert mounts(template)[MODELS][1]
        assert environment(template)["HF_HUB_OFFLINE"] == "1"


def test_a_volume_that_may_only_be_read_is_mounted_so() -> None:
    cache = {**OWN, "accessMode": "ReadOnlyMany"}
    context = context_of({"model": {"source": "/llama", "cache": cache}})
    for template in readers(context):
        volume, _ = mounts(template)[MODELS]
        assert volume["persistentVolumeClaim"]["readOnly"] is True


def test_the_hubs_token_goes_to_those_who_download_and_to_nobody_else() -> None:
    secret = {"tokenSecret": {"name": "hub", "key": "hf"}}
    reference = {"secretKeyRef": {"name": "hub", "key": "hf"}}
    shared, own = model(NEW, **secret), model({"type": "PerPod"}, **secret)
    assert environment(fetching(shared))["HF_TOKEN"] == reference
    for template in readers(shared):
        assert "HF_TOKEN" not in environment(template)
    for template in readers(own):
        assert environment(template)["HF_TOKEN"] == reference


def test_a_model_of_each_pod_is_only_looked_up() -> None:
    command = fetching(model({"type": "PerPod"}))["spec"]["containers"][0]["command"]
    assert "--no-weights" in command
    assert "emptyDir" in mounts(fetching(model(NODES)))[MODELS][0]
    assert "--no-weights" not in fetching(model(NEW))["spec"]["containers"][0]["command"]


def test_the_outcome_stands_in_the_pods_status() -> None:
    command = fetching(model(NEW))["spec"]["containers"][0]["command"]
    assert command[:4] == ["baton", "fetch", "--result", "/dev/termination-log"]


def test_a_download_tells_how_far_it_is_where_workers_do() -> None:
    command = fetching(model(NEW))["spec"]["containers"][0]["command"]
    assert command[-2:] == ["--progress-port", str(names.WORKER_HEALTH_PORT)]


def test_another_model_or_volume_is_another_job() -> None:
    contexts = [
        model(NEW),
        model(OWN),
        model(NEW, revision="v2"),
        context_of({"model": {"source": "org/other", "cache": NEW}}),
    ]
    assert len({fetch_job_name(each) for each in contexts}) == len(contexts)
    assert fetch_job(model(NEW))["metadata"]["name"] == fetch_job_name(model(NEW))
    assert fetch_job_name(model(NEW, maxModelLen=99)) == fetch_job_name(model(NEW))


def test_a_claim_is_made_where_one_is_asked_for() -> None:
    made = claim(model(NEW))
    assert made is not None
    assert made["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "100Gi"}},
        "storageClassName": "nfs",
    }
    assert made in children(model(NEW))
    assert claim(model(OWN)) is None


def test_the_embedded_model_needs_no_hub() -> None:
    assert not context_of().spec.model.needs_fetch
    for template in readers(context_of()):
        assert environment(template)["HF_HUB_OFFLINE"] == "1"
