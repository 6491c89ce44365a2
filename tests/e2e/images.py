"""Container images without a registry.

A machine without one cannot pull a base image, and copying Baton's dependencies (gigabytes of
torch) into a layer costs minutes. So an image here is a skeleton, and the node's runtime mounts
into every container, read-only, what is installed on this machine: /usr, the interpreter, the
checkout with its .venv. What the Dockerfiles add is not tested by it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
CHECKOUT = Path(__file__).resolve().parents[2]
# As in deploy/docker: who the processes of the images are.
_USER_ID = 65532
_HOME = "var/cache/baton"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FILES = {
    "etc/passwd": f"root:x:0:0::/root:/bin/sh\nbaton:x:{_USER_ID}:{_USER_ID}::/{_HOME}:/bin/sh\n",
    "etc/group": f"root:x:0:\nbaton:x:{_USER_ID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "usr", "var", "var/cache")


def runtime_spec(containerd_default: str) -> dict[str, Any]:
    """What containerd starts from (`ctr oci spec`), with this machine's programs mounted."""
    spec: dict[str, Any] = json.loads(containerd_default)
    # Nodes set none: a container has what containerd has.
    del spec["process"]["rlimits"]
    for folder in ("/usr", sys.base_prefix, str(CHECKOUT)):
        if folder != "/usr" and folder.startswith("/usr/"):
            continue
        options = ["rbind", "ro", "nosuid", "nodev"]
        spec["mounts"].append(
            {"destination": folder, "type": "bind", "source": folder, "options": options}
        )
    return spec


def pause(tag: str, path: Path) -> Path:
    """What holds a pod's namespaces; nothing is mounted into it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        layer.add(BUSYBOX, "busybox")
    return _pack(tag, path, buffer.getvalue(), ["/busybox", "sleep", "2147483647"], {})


def of_this_machine(
    tag: str, path: Path, entrypoint: Sequence[str], env: Mapping[str, str] | None = None
) -> Path:
    """Write an image to `path` as `docker save` does, for `ctr image import`."""
    return _pack(tag, path, _skeleton(), entrypoint, env or {})


def _pack(
    tag: str, path: Path, layer: bytes, entrypoint: Sequence[str], env: Mapping[str, str]
) -> Path:
    programs = f"{CHECKOUT}/.venv/bin:/usr/local/bin:/usr/bin"
    variables = {"PATH": programs, "PYTHONUNBUFFERED": "1", **env}
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint),
            "Env": [f"{key}={value}" for key, value in variables.items()],
            "User": f"{_USER_ID}:{_USER_ID}",
            "WorkingDir": f"/{_HOME}",
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as image:
        _add(image, "layer.tar", layer)
        _add(image, "config.json", json.dumps(config).encode())
        _add(image, "manifest.json", json.dumps(manifest).encode())
    return path


def _skeleton() -> bytes:
    """A tar with folders, links into /usr where this machine has them, and names of users."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in _FOLDERS:
            _add_folder(layer, name, 0o755)
        _add_folder(layer, "tmp", 0o1777)
        _add_folder(layer, _HOME, 0o755, owner=_USER_ID)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_symlink():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
                layer.addfile(entry)
        for name, text in _FILES.items():
            _add(layer, name, text.encode())
        # Where the linker finds libraries outside the default folders.
        _add(layer, "etc/ld.so.cache", Path("/etc/ld.so.cache").read_bytes())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _add_folder(archive: tarfile.TarFile, name: str, mode: int, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    entry.uid = entry.gid = owner
    archive.addfile(entry)
