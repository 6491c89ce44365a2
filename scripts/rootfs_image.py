"""Make a container image of this machine's Python and .venv, without a registry or a daemon.

`.venv/bin/python scripts/rootfs_image.py FILE [--tag baton:e2e] [--trim]` writes an archive for
`ctr -n k8s.io image import FILE` or `docker load -i FILE`. It is for tests on a node of one's own:
what users run is built from deploy/docker/. The image holds

- the interpreter and its standard library, in /usr/local;
- Baton and the distributions it requires (extra `operator`), in /opt/baton;
- the shared libraries of the machine that any of these is linked to, where they were;
- a shell with a few programs, redis-server and busybox where there are such;
- a user 65532, /tmp and certificates.

--trim leaves out what a CPU never loads: libraries of CUDA that `import torch` does not map.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import io
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import image_archive
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("services/baton", "kernels/baton_kernels", "operators/baton_operator")
SITE = PurePosixPath("/opt/baton")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# What scripts of containers, tests and people with `kubectl exec` use.
PROGRAMS = (
    *("sh", "cat", "cp", "cut", "date", "env", "grep", "head", "hostname", "id", "ls", "mkdir"),
    *("mv", "ps", "rm", "sed", "sha256sum", "sleep", "tail", "touch", "uname", "wc"),
    *("redis-server", "redis-cli", "busybox"),
)
COMMANDS = {"baton": "baton.cli.main:app", "ray": "ray.scripts.scripts:main"}
PASSWD = "root:x:0:0::/root:/bin/sh\nbaton:x:65532:65532::/var/cache/baton:/bin/sh\n"
GROUP = "root:x:0:\nbaton:x:65532:\n"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CONFIG = {
    "Env": [
        "PATH=/usr/local/bin:/usr/bin",
        f"PYTHONPATH={SITE}",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "HOME=/var/cache/baton",
        "LANG=C.UTF-8",
    ],
    "User": "65532:65532",
    "WorkingDir": "/var/cache/baton",
    "Entrypoint": ["baton"],
}
# Mapped by a worker on a CPU. Whatever else is below TRIMMED is left out by --trim.
PROBE = """
import torch, nixl._api
print(*{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}, sep="\\n")
"""
TRIMMED = ("nvidia", "triton", "nixl_ep_cu12", "nixl_ep_cu13", "ray/jars")

Files = dict[PurePosixPath, Path]
"""Path in the image to path here."""


def standard_library() -> Files:
    source = Path(sysconfig.get_path("stdlib"))
    target = PurePosixPath("/usr/local/lib") / PYTHON
    skipped = {"site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip"}
    found = _tree(source, target, skipped)
    found[PurePosixPath("/usr/local/bin") / PYTHON] = Path(sys.executable).resolve()
    return {path: here for path, here in found.items() if here.suffix != ".a"}


def distributions() -> Files:
    """Baton, and the files of all that it requires here."""
    found: Files = {}
    for package in PACKAGES:
        found |= _tree(ROOT / package, SITE / PurePosixPath(package).name, set())
    about = metadata.distribution("baton")
    for name in ("METADATA", "entry_points.txt"):
        here = Path(str(about.locate_file(f"baton-{about.version}.dist-info/{name}")))
        found[SITE / f"baton-{about.version}.dist-info" / name] = here
    for distribution in _required():
        for file in distribution.files or ():
            path = PurePosixPath(file)
            here = Path(str(file.locate()))
            if ".." not in path.parts and here.is_file():
                found[SITE / path] = here
            if path.suffix == ".py":
                # Compiled here, and valid there as long as the time of the source is kept.
                name = f"{path.stem}.{sys.implementation.cache_tag}.pyc"
                cached = here.parent / "__pycache__" / name
                if cached.is_file():
                    found[SITE / path.parent / "__pycache__" / name] = cached
    return found


def _required() -> Iterator[metadata.Distribution]:
    seen: set[tuple[str, str]] = set()
    waiting = [("baton", "operator"), ("baton", "")]
    given: set[str] = {"baton"}
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = metadata.distribution(name)
        if name not in given:
            given.add(name)
            yield distribution
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                child = canonicalize_name(wanted.name)
                waiting += [(child, ""), *((child, each) for each in wanted.extras)]


def _tree(source: Path, target: PurePosixPath, skipped: set[str]) -> Files:
    found: Files = {}
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in skipped]
        inside = target / PurePosixPath(Path(folder).relative_to(source))
        found |= {inside / name: Path(folder) / name for name in names}
    return found


def trimmed(files: Files) -> Files:
    """Without the binary files of TRIMMED that a CPU never maps."""
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    mapped = {os.path.realpath(line) for line in done.stdout.splitlines()}
    prefixes = [SITE / name for name in TRIMMED]

    def kept(path: PurePosixPath, here: Path) -> bool:
        if path.suffix in (".py", ".pyc") or not any(path.is_relative_to(p) for p in prefixes):
            return True
        return os.path.realpath(here) in mapped

    return {path: here for path, here in files.items() if kept(path, here)}


def programs() -> Files:
    found = {}
    for name in PROGRAMS:
        here = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
        if here is not None:
            found[PurePosixPath("/usr/bin") / name] = Path(here).resolve()
    return found


def libraries(files: Files) -> Files:
    """What the ELF files among them are linked to and does not come with them."""
    binaries = sorted({str(here) for here in files.values() if _is_elf(here)})
    ours = set(map(os.path.realpath, binaries))
    found: Files = {}
    for start in range(0, len(binaries), 200):
        # Fails for those that are no shared objects of this machine: plugins of others.
        done = subprocess.run(
            ["ldd", *binaries[start : start + 200]], capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            path = next((word for word in line.split() if word.startswith("/")), None)
            if path is None or path.endswith(":") or os.path.realpath(path) in ours:
                continue
            name = PurePosixPath(path)
            # The loader looks here without being told.
            inside = name if _is_system(name) else PurePosixPath("/usr/lib") / name.name
            found[inside] = Path(path).resolve()
    return found


def _is_system(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(folder) for folder in ("/lib", "/lib64", "/usr/lib"))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def fill(tar: tarfile.TarFile, files: Files) -> None:
    """Folders, then files, owned by root and readable by all."""
    made: set[PurePosixPath] = set()
    for folder, mode in (("/tmp", 0o1777), ("/var/cache/baton", 0o777), ("/root", 0o700)):
        _folder(tar, PurePosixPath(folder), made, mode)
    for path in sorted(files):
        _folder(tar, path.parent, made)
        here = files[path]
        info = tarfile.TarInfo(_name(path))
        status = here.stat()
        info.size = status.st_size
        # Byte code is valid for a source of exactly this time.
        info.mtime = int(status.st_mtime)
        info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        with here.open("rb") as file:
            tar.addfile(info, file)
    texts = {
        "/etc/passwd": (PASSWD, 0o644),
        "/etc/group": (GROUP, 0o644),
        "/etc/nsswitch.conf": ("hosts: files dns\n", 0o644),
        **{f"/usr/local/bin/{name}": (_command(of), 0o755) for name, of in COMMANDS.items()},
    }
    for name, (text, mode) in texts.items():
        _folder(tar, PurePosixPath(name).parent, made)
        info = tarfile.TarInfo(_name(PurePosixPath(name)))
        info.size, info.mode = len(text), mode
        tar.addfile(info, io.BytesIO(text.encode()))
    links = {"bin": "usr/bin", "usr/local/bin/python": PYTHON, "usr/local/bin/python3": PYTHON}
    for name, target in links.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)


def _folder(
    tar: tarfile.TarFile, path: PurePosixPath, made: set[PurePosixPath], mode: int = 0o755
) -> None:
    if path in made or path == PurePosixPath("/"):
        return
    _folder(tar, path.parent, made)
    made.add(path)
    info = tarfile.TarInfo(_name(path))
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _name(path: PurePosixPath) -> str:
    return str(path.relative_to("/"))


def _command(of: str) -> str:
    module, name = of.split(":")
    return f"#!/usr/local/bin/{PYTHON}\nfrom {module} import {name}\n\n{name}()\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--tag", default="docker.io/library/baton:e2e")
    parser.add_argument("--trim", action="store_true", help="leave out what a CPU never loads")
    options = parser.parse_args()
    files = standard_library() | distributions() | programs()
    if options.trim:
        files = trimmed(files)
    files |= libraries(files)
    if CERTIFICATES.exists():
        files[PurePosixPath(CERTIFICATES)] = CERTIFICATES
    image = image_archive.write(options.file, options.tag, CONFIG, lambda tar: fill(tar, files))
    size = options.file.stat().st_size / 1e9
    print(f"{options.tag} {image}: {len(files)} files, {size:.2f} GB in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
