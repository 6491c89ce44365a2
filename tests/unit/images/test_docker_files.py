"""The images of deploy/docker/: what can be said of them without building them."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "deploy/docker").glob("Dockerfile.*"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def _instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split()))
        for line in text.splitlines()
        if line.strip()
        for name, _, rest in [line.partition(" ")]
    ]


def _of(path: Path, name: str) -> list[str]:
    return [rest for found, rest in _instructions(path) if found == name]


@each_file
def test_bases_are_pinned_to_a_patch_version(path: Path) -> None:
    (pinned,) = _of(path, "ARG")
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-bookworm", pinned)
    # A build stage, and the image without what only building needs.
    bases = _of(path, "FROM")
    assert bases == ["python:${PYTHON} AS build", "python:${PYTHON}"]


@each_file
def test_the_image_runs_as_nobody_in_particular(path: Path) -> None:
    """The user of the pods that chart and operator make."""
    assert _of(path, "USER") == ["65532:65532"]
    assert _instructions(path)[-1] == ("ENTRYPOINT", '["baton"]')


@each_file
def test_what_is_installed_is_what_was_tested(path: Path) -> None:
    installs = [run for run in _of(path, "RUN") if "pip install '.[operator]'" in run]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]


@each_file
def test_system_packages_leave_nothing_behind(path: Path) -> None:
    for run in _of(path, "RUN"):
        if "apt-get" in run:
            assert "--no-install-recommends" in run
            assert run.endswith("rm -rf /var/lib/apt/lists/*")


@each_file
def test_no_secret_is_baked_in(path: Path) -> None:
    text = path.read_text().lower()
    assert not re.search(r"token|password|secret|api_key", text)
    assert "add http" not in text


@each_file
def test_everything_copied_is_in_the_context(path: Path) -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for copy in _of(path, "COPY"):
        if copy.startswith("--from"):
            continue
        *sources, _ = copy.split()
        for source in sources:
            assert (ROOT / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


@each_file
def test_the_wheel_has_every_package_that_is_copied(path: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = (\[.*\])$", project, re.MULTILINE)
    assert packages
    folders = {package.split("/")[0] for package in yaml.safe_load(packages[1])}
    assert folders == {"services", "kernels", "operators"}
    assert folders <= set(_of(path, "COPY")[1].split()) | {
        word for copy in _of(path, "COPY") for word in copy.split()
    }


def test_the_context_begins_with_nothing() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
