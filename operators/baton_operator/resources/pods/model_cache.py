"""Where weights are kept: the volume, the claim, and the Job that downloads for all pods."""

from __future__ import annotations

import hashlib

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.metadata import metadata
from baton_operator.resources.pods import paths, pod

_VOLUME = "models"


def is_offline(context: Context) -> bool:
    """Whether pods must not ask the hub: a Job has downloaded for them, or nothing is to be."""
    model = context.spec.model
    return model.cache.shared or not model.needs_fetch


def cache_volume(context: Context) -> tuple[Manifest, Manifest]:
    """The cache in workers and gateways."""
    return pod.volume(
        _VOLUME,
        paths.MODELS,
        _source(context),
        # What they do not download there they have no reason to write.
        read=context.spec.model.cache.type != "PerPod" and is_offline(context),
    )


def hub_environment(context: Context) -> list[Manifest]:
    """How workers and gateways come to the model."""
    if is_offline(context):
        return [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    return _hub_token(context)


def claim(context: Context) -> Manifest | None:
    """The claim that is made for a cache of type NewClaim."""
    cache = context.spec.model.cache
    if cache.type != "NewClaim":
        return None
    spec: Manifest = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class_name is not None:
        spec["storageClassName"] = cache.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(context, names.model_claim(context.name), "fetch"),
        "spec": spec,
    }


def fetch_job(context: Context) -> Manifest:
    """The Job that downloads a hub's model to a shared volume, or for others only looks it up.

    Its name says what is fetched, and the pod of a Job cannot be changed: once it is there it is
    left alone. The termination message of its pod is a JSON object with `commit`, or with `code`
    and `message` of what went wrong.
    """
    model = context.spec.model
    shared = model.cache.shared
    source = _source(context) if shared else {"emptyDir": {}}
    volumes = [*pod.scratch(), pod.volume(_VOLUME, paths.MODELS, source)]
    command = ["baton", "fetch", "--result", "/dev/termination-log"]
    if shared:
        command += ["--progress-port", str(names.WORKER_HEALTH_PORT)]
    else:
        command.append("--no-weights")
    container = pod.container_basics(context, "fetch", command)
    container["env"] = [
        *pod.home_environment(),
        {"name": "BATON_MODEL__SOURCE", "value": model.source},
        *(
            [{"name": "BATON_MODEL__REVISION", "value": model.revision}]
            if model.revision is not None
            else []
        ),
        {"name": "BATON_LOG__LEVEL", "value": "info"},
        {"name": "BATON_LOG__FORMAT", "value": "json"},
        *_hub_token(context),
    ]
    container["resources"] = {"requests": {"cpu": "100m", "memory": "256Mi"}}
    container["volumeMounts"] = [mount for _, mount in volumes]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(context, fetch_job_name(context), "fetch"),
        "spec": {
            # A download that broke goes on where it was.
            "backoffLimit": 6,
            "template": {
                "metadata": {"labels": names.labels(context.name, "fetch")},
                "spec": {
                    **pod.pod_basics(context, names.workers(context.name)),
                    "restartPolicy": "Never",
                    "containers": [container],
                    "volumes": [each for each, _ in volumes],
                },
            },
        },
    }


def fetch_job_name(context: Context) -> str:
    """Of the Job for exactly this source, revision and volume."""
    model = context.spec.model
    what = (model.source, model.revision, model.cache.type, model.cache.claim_name)
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:10]
    return names.fetch_job(context.name, digest)


def _source(context: Context) -> Manifest:
    cache = context.spec.model.cache
    match cache.type:
        case "PerPod":
            return {"emptyDir": {} if cache.size is None else {"sizeLimit": cache.size}}
        case "HostPath":
            return {"hostPath": {"path": cache.path, "type": "DirectoryOrCreate"}}
        case "NewClaim":
            name = names.model_claim(context.name)
        case "ExistingClaim":
            assert cache.claim_name is not None
            name = cache.claim_name
    read_only = {"readOnly": True} if cache.access_mode == "ReadOnlyMany" else {}
    return {"persistentVolumeClaim": {"claimName": name, **read_only}}


def _hub_token(context: Context) -> list[Manifest]:
    secret = context.spec.model.token_secret
    if secret is None:
        return []
    reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
    return [{"name": "HF_TOKEN", "valueFrom": reference}]
