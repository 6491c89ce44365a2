"""Every file under deploy/examples is a valid service and says what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton_operator.types.model_service import ModelService

FOLDER = Path(__file__).parents[3] / "deploy" / "examples"
FILES = sorted(FOLDER.rglob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def services(file: Path) -> list[ModelService]:
    return [
        ModelService.model_validate(
            {**each, "metadata": {"namespace": "default", **each["metadata"]}}
        )
        for each in documents(file)
        if each["kind"] == "ModelService"
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_begins_with_what_it_shows(file: Path) -> None:
    assert re.match(r"# [A-Z].{20,}", file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_holds_one_service_in_no_namespace(file: Path) -> None:
    assert len(services(file)) == 1
    # Where it is applied decides.
    assert not any("namespace" in each["metadata"] for each in documents(file))


def test_examples_can_be_applied_together() -> None:
    names = [(each["kind"], each["metadata"]["name"]) for file in FILES for each in documents(file)]
    assert len(names) == len(set(names))


def test_examples_show_what_is_promised() -> None:
    """The list of point 2: each is what somebody will look for."""
    text = "\n".join(file.read_text() for file in FILES)
    for shown in (
        "nodeSelector:",
        "tolerations:",
        "nvidia.com/mig-",
        "resourceClaims:",
        "rdma/",
        "priorityClassName:",
        "runtimeClassName:",
        "kueue.x-k8s.io/queue-name",
        "schedulerName: volcano",
        "topologySpreadConstraints:",
        "podAffinity:",
        "imagePullSecrets:",
        "volumeMounts:",
        "capacity-type: spot",
        "type: NewClaim",
        "type: ExistingClaim",
        "type: HostPath",
        "tokenSecret:",
        "sentinel:",
        "cluster:",
        "weight: 10",
        "ingress:",
        "httpRoute:",
        "grpcRoute:",
        "role: any",
        "HorizontalPodAutoscaler",
        "ScaledObject",
    ):
        assert shown in text, shown
