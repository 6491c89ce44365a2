"""Disk records: one file for each block, under a folder that one living worker has claimed.

    DISK_PATH/N/claim                                         locked by the worker
    DISK_PATH/N/DIGEST.CODEC/gGROUP/HH/HASH.kv                one record; HH begins HASH

A file appears under its name when it is complete. Nothing is forced to the platter: what a crash of
the machine tears is refused by its checksum. Records under other digests are left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import xxhash

from baton.core.block_hash import HASH_BYTES
from baton.transfer.codec import Bytes
from baton.transfer.tiers.record import HEADER_BYTES, BadRecordError, Kind

# What a file occupies is rounded up to this many bytes.
FILE_UNIT = 4096
# Workers of one node that may share a disk path.
MAX_CLAIMS = 1024
SUFFIX = ".kv"
PART = ".part"


def disk_record_bytes(record_bytes: int) -> int:
    """Disk space of one record."""
    return -(-(HEADER_BYTES + record_bytes) // FILE_UNIT) * FILE_UNIT


class DiskTier:
    """The records of one worker's groups. All methods block, and raise OSError."""

    def __init__(self, path: Path, kinds: Sequence[Kind]) -> None:
        """Claim a subfolder of `path`; raises OSError when there is none to be had."""
        self._kinds = tuple(kinds)
        self.folder, self._claim = _claim(path)
        self._own = self.folder / f"{kinds[0].digest}.{kinds[0].codec}"

    def close(self) -> None:
        """Let another worker have the folder."""
        self._claim.close()

    def write(self, group: int, block_hash: bytes, record: Bytes, checksum: int) -> None:
        path = self._path(group, block_hash)
        part = path.with_suffix(PART)
        header = self._kinds[group].header(block_hash, checksum)
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except FileNotFoundError:
            part.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            try:
                _write_all(fd, header)
                _write_all(fd, record.data)
            finally:
                os.close(fd)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def read(self, group: int, block_hash: bytes, record: Bytes) -> int:
        """Fill `record`; returns its checksum. Raises BadRecordError when the file is not it."""
        kind = self._kinds[group]
        with open(self._path(group, block_hash), "rb", buffering=0) as file:
            checksum = kind.checksum_in(file.read(HEADER_BYTES), block_hash)
            if _read_all(file, record.data) != kind.length or file.read(1):
                raise BadRecordError("the file is shorter or longer than its record")
            if xxhash.xxh3_64_intdigest(record.data) != checksum:
                raise BadRecordError("the checksum does not match")
            # The next life keeps what was used last.
            os.utime(file.fileno())
        return checksum

    def delete(self, group: int, block_hash: bytes) -> None:
        self._path(group, block_hash).unlink(missing_ok=True)

    def scan(self, group: int) -> list[bytes]:
        """Hashes of an earlier life's records, the last used first.

        Files are not opened: they are checked when they are read. What was left half-written is
        removed, as are files of another length.
        """
        length = HEADER_BYTES + self._kinds[group].length
        found: list[tuple[float, bytes]] = []
        for entry in _files(self._own / f"g{group}"):
            block_hash = _hash_in(entry.name)
            stat = entry.stat()
            if block_hash is not None and stat.st_size == length:
                found.append((stat.st_mtime, block_hash))
            elif entry.name.endswith((SUFFIX, PART)):
                os.unlink(entry.path)
        found.sort(reverse=True)
        return [block_hash for _, block_hash in found]

    def foreign_bytes(self) -> int:
        """Disk space under the claimed folder that is not of this model, layout and codec."""
        own = str(self._own)
        return sum(
            disk_record_bytes(max(0, entry.stat().st_size - HEADER_BYTES))
            for folder in os.scandir(self.folder)
            if folder.path != own and folder.is_dir(follow_symlinks=False)
            for entry in _files(Path(folder.path))
        )

    def _path(self, group: int, block_hash: bytes) -> Path:
        name = block_hash.hex()
        return self._own / f"g{group}" / name[:2] / f"{name}{SUFFIX}"


def _claim(path: Path) -> tuple[Path, IO[bytes]]:
    for number in range(MAX_CLAIMS):
        folder = path / str(number)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        claim = open(folder / "claim", "ab")  # noqa: SIM115 (the lock lives as long as the file)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        return folder, claim
    raise OSError(f"all {MAX_CLAIMS} folders under {path} are in use")


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a folder, which need not exist."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry


def _hash_in(name: str) -> bytes | None:
    if not name.endswith(SUFFIX) or len(name) != 2 * HASH_BYTES + len(SUFFIX):
        return None
    try:
        return bytes.fromhex(name[: -len(SUFFIX)])
    except ValueError:
        return None


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_all(file: IO[bytes], view: memoryview) -> int:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done
