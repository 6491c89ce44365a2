"""What all pods of a service have in common: security, writable folders, environment."""

from __future__ import annotations

from baton_operator import names
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.pods import paths
from baton_operator.types.pod_template import Resources

CONTAINER = "baton"
"""Name of the container of workers and gateways, by which a podTemplate finds it."""
USER = 65532
"""Whoever the image's user is; a number, so that nodes can tell that it is not root."""


def pod_security() -> Manifest:
    """The pod's part of what Pod Security's profile `restricted` asks for."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        # Volumes belong to this group; Secrets are mounted readable by it alone.
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """The container's part, and a file system that cannot be written to."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_basics(context: Context, service_account: str | None) -> Manifest:
    """Fields of a pod spec that no pod goes without."""
    spec = context.spec
    basics: Manifest = {
        # The API is none of their business.
        "automountServiceAccountToken": False,
        # A Service named `baton` would set variables that Baton takes for its own.
        "enableServiceLinks": False,
        "securityContext": pod_security(),
    }
    if service_account is not None:
        basics["serviceAccountName"] = service_account
    if spec.image_pull_secrets:
        basics["imagePullSecrets"] = [{"name": name} for name in spec.image_pull_secrets]
    return basics


def container_basics(context: Context, name: str, command: list[str]) -> Manifest:
    """Fields of a container that no container goes without."""
    basics: Manifest = {
        "name": name,
        "image": context.image,
        "command": command,
        "securityContext": container_security(),
        # So that what stopped a container stands in the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if context.spec.image_pull_policy is not None:
        basics["imagePullPolicy"] = context.spec.image_pull_policy
    return basics


def home_environment() -> list[Manifest]:
    """Where libraries write: the file system of the image is read-only."""
    return [
        {"name": "HOME", "value": paths.HOME},
        {"name": "XDG_CACHE_HOME", "value": paths.HOME},
        {"name": "HF_HOME", "value": f"{paths.HOME}/huggingface"},
        {"name": "HF_HUB_CACHE", "value": paths.HUB_CACHE},
        {"name": "HF_HUB_DISABLE_TELEMETRY", "value": "1"},
    ]


def field(variable: str, path: str) -> Manifest:
    """A variable with a field of the pod."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def scratch() -> list[tuple[Manifest, Manifest]]:
    """Volumes and mounts of the folders that every pod writes to."""
    return [
        volume("tmp", "/tmp", {"emptyDir": {}}),
        volume("home", paths.HOME, {"emptyDir": {}}),
    ]


def settings(config_map: str) -> tuple[Manifest, Manifest]:
    """The ConfigMap with baton.yaml."""
    return volume("config", paths.CONFIG_FOLDER, {"configMap": {"name": config_map}}, read=True)


def internal(context: Context) -> tuple[Manifest, Manifest]:
    """The service's own Secret."""
    secret = names.internal_secret(context.name, context.service.uid)
    return secret_volume("internal", secret, paths.INTERNAL_FOLDER)


def user_secrets(context: Context) -> list[tuple[Manifest, Manifest]]:
    """The certificate for connections between the service's pods, if there is one."""
    secret = context.spec.security.mtls_secret
    return [] if secret is None else [secret_volume("mtls", secret, paths.MTLS_FOLDER)]


def secret_volume(name: str, secret: str, path: str) -> tuple[Manifest, Manifest]:
    """A Secret in a folder; Baton refuses a token that everybody may read."""
    return volume(name, path, {"secret": {"secretName": secret, "defaultMode": 0o440}}, read=True)


def volume(
    name: str, path: str, source: Manifest, *, read: bool = False
) -> tuple[Manifest, Manifest]:
    """A volume and its mount; `read`: the container cannot write there."""
    mount: Manifest = {"name": name, "mountPath": path}
    if read:
        mount["readOnly"] = True
    return {"name": name, **source}, mount


def resources(wanted: Resources) -> Manifest:
    """What a container asks for, as its manifest says it; may be empty."""
    parts: Manifest = {
        "requests": dict(wanted.requests),
        "limits": dict(wanted.limits),
        "claims": [each.model_dump(exclude_none=True) for each in wanted.claims],
    }
    return {name: part for name, part in parts.items() if part}
