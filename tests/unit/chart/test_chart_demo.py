"""templates/demo/modelservice.yaml and templates/tests/chat.yaml: it should ..."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from baton_operator import names
from baton_operator.types.model_service import ModelService
from fakes.loopback_server import LoopbackServer, json_handler
from unit.chart.rendering import Chart, environment

pytestmark = pytest.mark.helm
ON = "demo.enabled=true"
TEST = "rel-baton-test-chat"


def test_demo_should_be_off_unless_wanted(chart: Chart) -> None:
    kinds = {each["kind"] for each in chart.objects()}
    assert not kinds & {"ModelService", "Pod"}


@pytest.mark.parametrize(
    "sets", [(ON,), (ON, "runtimeImage=cuda:1", "image.pullSecrets[0].name=x")]
)
def test_demo_should_be_a_service_that_the_operator_takes(
    chart: Chart, sets: tuple[str, ...]
) -> None:
    demo = chart.get("ModelService", "demo", *sets)
    ModelService.model_validate(demo)
    assert demo["apiVersion"] == names.API_VERSION


def test_demo_should_fit_on_a_small_node(chart: Chart) -> None:
    """One prefill, three decode workers and what a rollout adds: 1.2 cores."""
    demo = chart.get("ModelService", "demo", ON)["spec"]
    cpus = [pool["resources"]["requests"]["cpu"] for pool in demo["pools"]]
    workers = 4 + 2
    gateway = demo["gateway"]["resources"]["requests"]["cpu"]
    assert set(cpus) == {"100m"}
    assert workers * 100 + 2 * int(gateway.removesuffix("m")) + 100 + 50 <= 1200


def test_demo_should_run_the_cpu_image_beside_services_with_gpus(chart: Chart) -> None:
    assert "image" not in chart.get("ModelService", "demo", ON)["spec"]
    spec = chart.get("ModelService", "demo", ON, "runtimeImage=cuda:1")["spec"]
    assert spec["image"] == "baton:0.1.0"


def test_chat_should_go_to_the_service_of_the_demo(chart: Chart) -> None:
    pod = chart.get("Pod", TEST, ON, "demo.name=mine")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    # Helm reads the logs (`--logs`) only after hooks have been deleted.
    policy = pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy == "before-hook-creation"
    url = environment(pod["spec"]["containers"][0])["URL"]
    assert url == f"http://{names.gateway('mine')}.ns.svc:{names.GATEWAY_HTTP_PORT}"


def _said(text: str, tokens: int) -> object:
    message = {"role": "assistant", "content": text}
    return {"choices": [{"message": message}], "usage": {"completion_tokens": tokens}}


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([(200, _said("Hello.", 2))], 0),
        ([(503, {"error": "no worker yet"}), (200, _said("Hello.", 2))], 0),
        ([(200, _said("", 0))], 1),
    ],
)
def test_chat_should_wait_for_the_service_and_fail_without_an_answer(
    chart: Chart, answers: list[tuple[int, object]], status: int
) -> None:
    command = chart.get("Pod", TEST, ON)["spec"]["containers"][0]
    rest = iter(answers)

    def answer(method: str, path: str, asked: Any) -> tuple[int, object]:
        assert (method, path) == ("POST", "/v1/chat/completions")
        assert asked["model"] == "baton-tiny"
        return next(rest)

    with LoopbackServer(json_handler(answer)) as server:
        done = subprocess.run(
            [sys.executable, *command["command"][1:], *command["args"]],
            env={**os.environ, "URL": server.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == status, done.stdout + done.stderr
