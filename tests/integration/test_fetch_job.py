"""`baton fetch` as the operator's Job runs it, and workers beside it: the command and environment
of the manifests, with the folders of this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from baton_operator.decide import fetch_result
from baton_operator.resources.pods.model_cache import fetch_job
from baton_operator.resources.pods.paths import HOME, HUB_CACHE
from baton_operator.resources.pods.worker import worker_template
from fakes.hub_server import COMMIT, FakeHub
from fakes.model_services import container, context_of, environment

SHARED = {"type": "ExistingClaim", "claimName": "weights"}
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": 32, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones((64, 64), dtype=np.float32)}, folder / WEIGHTS)
    with FakeHub(folder) as it:
        yield it


def run(template: dict[str, Any], command: list[str], volume: Path, hub: str) -> Path:
    """The command with a pod's environment; `volume` is the hub's cache. Returns the result."""
    result, home = volume.parent / "termination-log", volume.parent / "home"
    places = {HUB_CACHE: str(volume), HOME: str(home), "/dev/termination-log": str(result)}

    def here(text: str) -> str:
        for place, path in places.items():
            text = text.replace(place, path)
        return text

    plain = {k: here(v) for k, v in environment(template).items() if isinstance(v, str)}
    own = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", "baton.cli.main", *map(here, command[1:])],
        env={**own, **plain, "HF_ENDPOINT": hub},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return result


@pytest.mark.parametrize("cache", [SHARED, {"type": "PerPod"}], ids=["shared", "per-pod"])
def test_the_job_says_the_commit_and_downloads_for_shared_volumes_alone(
    hub: FakeHub, tmp_path: Path, cache: dict[str, Any]
) -> None:
    model = {"source": "org/tiny", "revision": "v1", "cache": cache}
    template = fetch_job(context_of({"model": model}))["spec"]["template"]
    volume = tmp_path / "volume"
    result = run(template, container(template)["command"], volume, hub.url)
    assert fetch_result.commit(result.read_text()) == COMMIT
    assert bool(list(volume.glob(f"*/snapshots/*/{WEIGHTS}"))) is (cache is SHARED)


def test_workers_find_offline_what_the_job_has_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    model = {"source": "org/tiny", "revision": "v1", "cache": SHARED}
    context, volume = context_of({"model": model}, commit=COMMIT), tmp_path / "volume"
    job = fetch_job(context)["spec"]["template"]
    run(job, container(job)["command"], volume, hub.url)
    before = sorted(volume.rglob("*"))

    # A worker looks for its model as this does, and needs no more than a mount to read.
    worker = worker_template(context, context.spec.pools[0], "r1")
    look = ["baton", "fetch", "--model", "org/tiny", "--revision", COMMIT]
    # A worker's own variables are no part of it.
    worker["spec"]["containers"][0]["env"] = [
        each for each in container(worker)["env"] if not each["name"].startswith("BATON_")
    ]
    run(worker, look, volume, "http://127.0.0.1:9")
    assert sorted(volume.rglob("*")) == before
