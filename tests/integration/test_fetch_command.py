"""`baton fetch` in a process of its own against a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from fakes.deployment import wait_for
from fakes.hub_server import COMMIT, FakeHub

PART = "model-00002-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A repository of two shards of 1 MB and more; and pickles, which nobody wants."""
    folder = tmp_path / "repository"
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": 32, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    names = ["model-00001-of-00002.safetensors", PART]
    for i, name in enumerate(names):
        save_file({f"w{i}": np.full((1024, 256), i + 1, dtype=np.float32)}, folder / name)
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with FakeHub(folder) as it:
        yield it


class Fetch:
    """One run of the command."""

    def __init__(self, tmp_path: Path, endpoint: str, *flags: str, **env: str) -> None:
        self.cache = tmp_path / "cache"
        self.result_file = tmp_path / "result"
        self._stdout = tmp_path / "stdout"
        with self._stdout.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "baton.cli.main", "fetch", "--model", "org/tiny"),
                    *("--result", str(self.result_file), *flags),
                ],
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
                    "HF_ENDPOINT": endpoint,
                    "HF_HOME": str(self.cache),
                    **env,
                },
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
            )

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stdout.read_text().splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.result_file.read_text())
        return document

    @property
    def parts(self) -> list[Path]:
        return list(self.cache.glob("hub/*/blobs/*.incomplete"))


def test_a_branch_is_fetched_and_named_by_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    first = Fetch(tmp_path, hub.url, "--revision", "v1", HF_TOKEN="hf_secret")
    status, stderr = first.end()
    assert status == 0, stderr
    wanted = hub.num_bytes - len(hub.files["pytorch_model.bin"])
    done = first.lines[-1]
    assert done == first.result
    assert (done["event"], done["commit"], done["revision"]) == ("done", COMMIT, "v1")
    assert (done["files"], done["bytes"]) == (5, wanted)
    assert Path(done["folder"]).name == COMMIT
    progress = [line for line in first.lines if line["event"] == "progress"]
    assert progress[-1] == {"event": "progress", "bytes": wanted, "total_bytes": wanted}
    assert [p["bytes"] for p in progress] == sorted(p["bytes"] for p in progress)
    assert "Bearer hf_secret" in hub.tokens

    hub.downloads.clear()
    again = Fetch(tmp_path, hub.url, "--revision", COMMIT)
    assert again.end()[0] == 0
    assert again.result["commit"] == COMMIT
    assert hub.downloads == []

    # Workers on the same volume need no network.
    offline = Fetch(tmp_path, "http://127.0.0.1:9", "--revision", COMMIT, HF_HUB_OFFLINE="1")
    assert offline.end()[0] == 0
    assert offline.result["folder"] == done["folder"]


def test_a_broken_connection_is_resumed_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    # huggingface_hub counts received bytes in pieces of 10 MB.
    hub.files[PART] = save({"w1": np.ones((3, 2**20), dtype=np.float32)})
    hub.breaks[PART] = 11_000_000
    it = Fetch(tmp_path, hub.url)
    status, stderr = it.end()
    assert status == 0, stderr
    [first, second] = [wanted for name, wanted in hub.downloads if name == PART]
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 11_000_000


def test_how_far_it_is_can_be_asked_for_meanwhile(hub: FakeHub, tmp_path: Path) -> None:
    hub.stalls[PART] = 500_000
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, stderr = Fetch(tmp_path, hub.url, "--progress-port", str(port)).end()
        assert status == 2 and f"cannot listen on port {port}" in stderr
    it = Fetch(tmp_path, hub.url, "--progress-port", str(port))
    assert hub.stalled.wait(60)
    told: dict[str, Any] = {}

    def some_is_there() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
            told.update(json.load(answer))
        return bool(told["bytes"])

    wait_for("a part of it", some_is_there)
    wanted = hub.num_bytes - len(hub.files["pytorch_model.bin"])
    assert told["stage"] == "downloading" and told["total_bytes"] == wanted
    assert 0 < told["bytes"] < wanted
    it.process.kill()
    it.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fetch_leaves_no_part_and_goes_on_later(
    hub: FakeHub, tmp_path: Path, number: signal.Signals
) -> None:
    hub.stalls[PART] = 500_000
    it = Fetch(tmp_path, hub.url)
    assert hub.stalled.wait(60)
    wait_for("the other files", lambda: len(hub.downloads) == 5)
    wait_for("the other shard", lambda: len(list(it.cache.glob("hub/*/snapshots/*/*"))) == 4)
    it.process.send_signal(number)
    status, stderr = it.end()
    assert status == 128 + number
    assert "stopped; the next try goes on" in stderr
    assert "Traceback" not in stderr
    assert it.parts == []

    hub.stalls.clear()
    hub.downloads.clear()
    again = Fetch(tmp_path, hub.url)
    status, stderr = again.end()
    assert status == 0, stderr
    assert [name for name, _ in hub.downloads] == [PART]


def test_no_network(tmp_path: Path) -> None:
    it = Fetch(tmp_path, "http://127.0.0.1:9")
    status, stderr = it.end()
    assert status == 2
    assert "could not be reached" in stderr
    assert "Connection refused" in stderr
    assert "HF_ENDPOINT" in it.result["message"]
    assert it.result["event"] == "error"
    assert it.result == it.lines[-1]


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "RepoNotFound"), "no model on the hub named org/tiny.*HF_TOKEN"),
        ((403, "GatedRepo"), "gated: accept its terms on the hub and set HF_TOKEN"),
        ((401, "Unauthorized"), "HF_TOKEN"),
        ((403, "Forbidden"), r"refused access to org/tiny \(403\): set HF_TOKEN"),
        ((503, "Down"), "could not be reached.*503"),
    ],
)
def test_refusals_say_what_to_do(
    hub: FakeHub, tmp_path: Path, refusal: tuple[int, str], message: str
) -> None:
    hub.refuse = refusal
    it = Fetch(tmp_path, hub.url)
    status, stderr = it.end()
    assert status == 2
    [line] = [line for line in stderr.splitlines() if line.startswith("baton: ")]
    assert re.search(message, line), stderr
    assert "Traceback" not in stderr
    assert it.result["code"] == "model_load_error"


def test_an_unknown_revision(hub: FakeHub, tmp_path: Path) -> None:
    it = Fetch(tmp_path, hub.url, "--revision", "v9")
    status, stderr = it.end()
    assert status == 2
    assert "org/tiny has no revision v9; check --revision" in stderr


def test_a_model_larger_than_the_disk_is_refused_before_it_is_downloaded(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.told_sizes[PART] = 10**18
    it = Fetch(tmp_path, hub.url)
    status, stderr = it.end()
    assert status == 2
    assert "no space for org/tiny: 1000000000" in stderr
    assert "HF_HOME" in stderr
    assert hub.downloads == []


def test_a_disk_that_fills_up(hub: FakeHub, tmp_path: Path) -> None:
    """Files may grow to 500 kB only: the kernel's answer differs from a full disk's by its number,
    and there is no full disk to be had without privileges."""
    config = tmp_path / "sitecustomize.py"
    config.write_text(
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
    )
    it = Fetch(tmp_path, hub.url, PYTHONPATH=str(tmp_path))
    status, stderr = it.end()
    assert status == 2, stderr
    assert "no space for org/tiny" in stderr
    assert it.parts == []


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    it = Fetch(tmp_path, hub.url, HF_HOME=str(blocked / "cache"))
    status, stderr = it.end()
    assert status == 2
    assert "cache cannot be written" in stderr
    assert "HF_HOME" in stderr


def test_a_result_that_cannot_be_written_is_said_first(hub: FakeHub, tmp_path: Path) -> None:
    it = Fetch(tmp_path, hub.url, "--result", "/proc/no/such")
    status, stderr = it.end()
    assert status == 2
    assert "--result /proc/no/such cannot be written" in stderr
    assert hub.downloads == []


def test_folders_are_only_checked(tmp_path: Path) -> None:
    it = Fetch(tmp_path, "http://127.0.0.1:9", "--model", "baton-tiny")
    status, stderr = it.end()
    assert status == 0, stderr
    assert it.result["commit"] is None
    assert it.result["bytes"] > 2**20
