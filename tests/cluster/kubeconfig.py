"""Files that tell kubectl, helm and client libraries where a cluster is and who they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.certificates import KeyPair


def of_certificate(server: str, authority: Path, pair: KeyPair) -> dict[str, Any]:
    """`server`: its URL; `authority`: the file of the certificate that it is checked by."""
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    return _config({"server": server, "certificate-authority": str(authority)}, user)


def with_token(config: dict[str, Any], token: str) -> dict[str, Any]:
    """The same cluster for the bearer of a token."""
    return _config(_cluster(config), {"token": token})


def impersonating(config: dict[str, Any], user: str, group: str | None) -> dict[str, Any]:
    """The same cluster as `user`: rights are checked as theirs."""
    groups = [group] if group else []
    return _config(_cluster(config), {**_user(config), "as": user, "as-groups": groups})


def read(path: Path) -> dict[str, Any]:
    """Of the current context alone, with paths made absolute."""
    config = yaml.safe_load(path.read_text())
    by_name = {c["name"]: c["context"] for c in config["contexts"]}
    context = by_name[config["current-context"]]
    cluster = {c["name"]: c["cluster"] for c in config["clusters"]}[context["cluster"]]
    user = {u["name"]: u["user"] for u in config["users"]}[context["user"]]
    for entry in (cluster, user):
        for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
            if key in entry:
                entry[key] = str((path.parent / entry[key]).resolve())
    return _config(cluster, user)


def write(path: Path, config: dict[str, Any]) -> Path:
    """JSON is YAML. Only the owner may read it: it may hold a token."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path


def _config(cluster: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }


def _cluster(config: dict[str, Any]) -> dict[str, Any]:
    cluster: dict[str, Any] = config["clusters"][0]["cluster"]
    return cluster


def _user(config: dict[str, Any]) -> dict[str, Any]:
    user: dict[str, Any] = config["users"][0]["user"]
    return user
