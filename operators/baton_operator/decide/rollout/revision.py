"""What makes two workers alike: the hash of everything that their pods are made from.

Taken from what the user asked for and not from the manifests that come of it, so that an operator
which builds pods a little differently does not start a rollout of all services. Fields at their
default are left out for the same reason: a newer version may know more of them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from baton_operator.types.model_service import ModelServiceSpec

ELSEWHERE = frozenset({"gateway", "routing", "slo", "tenants", "rollout"})
"""Parts of the spec that no worker pod is made from."""
POOL_ELSEWHERE = frozenset({"replicas", "rollout"})


def revision_of(spec: ModelServiceSpec, image: str, commit: str | None) -> str:
    """Name of the revision: a letter, so that no YAML reads a number, and eight hex digits.

    `commit` is what the model's revision was found to stand for.
    """
    inputs = _asked(spec)
    for part in ELSEWHERE:
        inputs.pop(part, None)
    inputs["image"] = image
    if commit is not None:
        inputs["model"]["revision"] = commit
    return f"r{digest(inputs)[:8]}"


def input_hash(spec: ModelServiceSpec, image: str, commit: str | None) -> str:
    """Of what all other pods are made from: the whole spec but for how many and how fast."""
    inputs = _asked(spec)
    inputs.pop("rollout", None)
    gateway = inputs.pop("gateway", {})
    inputs["gateway"] = {key: value for key, value in gateway.items() if key != "replicas"}
    return digest([inputs, image, commit])[:16]


def digest(value: Any) -> str:
    """Of JSON data, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(spec: ModelServiceSpec) -> dict[str, Any]:
    """The spec without defaults, without sizes, and with pools in the order of their names."""
    asked = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    asked["pools"] = [
        {key: value for key, value in pool.items() if key not in POOL_ELSEWHERE}
        for pool in sorted(asked["pools"], key=lambda pool: str(pool["name"]))
    ]
    return asked
