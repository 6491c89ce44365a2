"""Write a container image as `docker load` and `ctr image import` take it, with neither of them.

The archive is a tar of one layer (a tar itself), a config and a manifest. The layer goes straight
into it: its length and digest are known only at its end, and then filled in.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

LAYER = "layer.tar"
Fill = Callable[[tarfile.TarFile], None]


class _Hashed(io.RawIOBase):
    """Passes bytes on, and keeps their number and SHA-256."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._target.write(data)


def write(path: Path, tag: str, config: dict[str, Any], fill: Fill) -> str:
    """An image `tag` at `path`, of what `fill` adds to its one layer; returns the image's id.

    `config` is the OCI image configuration's `config`: Env, User, Entrypoint and so on.
    """
    with path.open("wb") as file:
        layer = _layer(file, fill)
        diff_id = f"sha256:{layer.digest.hexdigest()}"
        image = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        ).encode()
        digest = hashlib.sha256(image).hexdigest()
        manifest = [{"Config": f"{digest}.json", "RepoTags": [tag], "Layers": [LAYER]}]
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as rest:
            _add(rest, f"{digest}.json", image)
            _add(rest, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{digest}"


def _layer(file: BinaryIO, fill: Fill) -> _Hashed:
    header = tarfile.TarInfo(LAYER)
    at = file.tell()
    file.write(_header(header))
    layer = _Hashed(file)
    with tarfile.open(fileobj=layer, mode="w|", format=tarfile.GNU_FORMAT, bufsize=2**20) as tar:
        fill(tar)
    header.size = layer.size
    file.write(b"\0" * (-layer.size % tarfile.BLOCKSIZE))
    end = file.tell()
    file.seek(at)
    file.write(_header(header))
    file.seek(end)
    return layer


def _header(info: tarfile.TarInfo) -> bytes:
    """One block whatever the size: GNU's format has numbers beyond 8 GiB in it."""
    block = info.tobuf(tarfile.GNU_FORMAT)
    assert len(block) == tarfile.BLOCKSIZE
    return block


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
