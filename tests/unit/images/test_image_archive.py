"""Images made without Docker: an archive as containerd reads it, and what goes into it."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports one of them, as Python does when it is run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000])
def test_archive_says_of_its_layer_what_is_in_it(scripts: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "image.tar"
    data = os.urandom(size)
    config = {"Env": ["A=b"], "User": "65532:65532", "Entrypoint": ["baton"]}
    image = scripts("image_archive").write(
        path, "example.com/baton:1", config, lambda tar: _add(tar, "some/file", data)
    )
    with tarfile.open(path) as archive:
        (manifest,) = json.load(_file(archive, "manifest.json"))
        assert manifest["RepoTags"] == ["example.com/baton:1"]
        said = _file(archive, manifest["Config"]).read()
        assert f"sha256:{hashlib.sha256(said).hexdigest()}" == image
        about = json.loads(said)
        assert about["config"] == config
        assert (about["os"], about["architecture"]) == ("linux", "amd64")
        (layer,) = (_file(archive, name).read() for name in manifest["Layers"])
    assert about["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert _file(files, "some/file").read() == data


def test_archive_can_hold_more_than_eight_gigabytes(scripts: Any) -> None:
    """The header of a layer of any size is one block, so that it can be filled in afterwards."""
    archive = scripts("image_archive")
    info = tarfile.TarInfo(archive.LAYER)
    info.size = 9 * 2**30
    block = archive._header(info)
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 * 2**30


def _file(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    assert found is not None
    return found


def test_root_file_system_holds_commands_packages_user_and_folders(
    scripts: Any, tmp_path: Path
) -> None:
    rootfs = scripts("rootfs_image")
    files = rootfs.programs()
    assert PurePosixPath("/usr/bin/sh") in files
    files |= rootfs.libraries(files)
    path = tmp_path / "layer.tar"
    with tarfile.open(path, "w") as tar:
        rootfs.fill(tar, files)
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        assert len(members) == len(tar.getmembers())
        assert members["tmp"].mode == 0o1777
        assert members["var/cache/baton"].mode & 0o007 == 0o007
        assert members["bin"].linkname == "usr/bin"
        assert members["usr/local/bin/python"].issym()
        assert "baton:x:65532:65532:" in _file(tar, "etc/passwd").read().decode()
        command = _file(tar, "usr/local/bin/baton").read().decode()
        assert command.startswith(f"#!/usr/local/bin/{rootfs.PYTHON}\n")
        assert all(member.uid == 0 for member in members.values())
        # Every file's folder comes before it.
        names = [member.name for member in tar]
        for index, name in enumerate(names):
            parent = str(PurePosixPath(name).parent)
            assert parent == "." or parent in names[:index], name
    loader = [path for path in files if "ld-linux" in path.name]
    assert loader, "programs could not start"


def test_root_file_system_has_what_the_package_requires_and_no_tools(scripts: Any) -> None:
    names = {each.metadata["Name"].lower() for each in scripts("rootfs_image")._required()}
    assert {"torch", "ray", "nixl", "kopf", "kubernetes", "redis", "aiohttp"} <= names
    assert not {"pytest", "mypy", "hypothesis", "openai", "baton"} & names


@pytest.mark.parametrize("name", ["baton", "ray"])
def test_root_file_systems_commands_are_those_of_the_package(scripts: Any, name: str) -> None:
    of = scripts("rootfs_image").COMMANDS[name]
    module, function = of.split(":")
    code = f"import {module}; print(callable({module}.{function}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
