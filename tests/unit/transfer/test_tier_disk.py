"""Copies on real files: they survive a restart, and only the very block is ever read back."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from baton.transfer.tiers.disk import DiskTier, disk_record_bytes
from baton.transfer.tiers.record import HEADER_BYTES, BadRecordError, Kind
from fakes.tier_memory import DIGEST, SPEC, TierMemory, hash_of

Make = Callable[..., TierMemory]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Workers one after another, or beside each other, over one disk path."""
    made: list[TierMemory] = []

    def start(**options: object) -> TierMemory:
        made.append(TierMemory(tmp_path, **options))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for memory in made:
        memory.mover.close()


def stored(make: Make, count: int = 3) -> TierMemory:
    memory = make()
    for number in range(count):
        assert memory.store(block=number, number=number)
    return memory


def test_a_block_comes_back_as_it_was(make: Make) -> None:
    memory = stored(make)
    wanted = memory.view.copy()
    for number in range(3):
        assert memory.fetch(number, block=5)
        assert (memory.view[5] == wanted[number]).all()


def test_records_survive_a_restart_and_are_found_newest_first(make: Make) -> None:
    first = stored(make)
    wanted = first.view.copy()
    for age, path in enumerate(reversed(first.files())):
        os.utime(path, (1e9 - age, 1e9 - age))
    first.mover.close()
    second = make()
    second.view[:] = 0
    assert second.disk is not None and first.disk is not None
    assert second.disk.folder == first.disk.folder
    assert second.earlier() == ([hash_of(n) for n in (2, 1, 0)], 0)
    assert second.fetch(1, block=4)
    assert (second.view[4] == wanted[1]).all()


def test_what_was_read_last_is_found_first_in_the_next_life(make: Make) -> None:
    first = stored(make)
    for path in first.files():
        os.utime(path, (1e9, 1e9))
    assert first.fetch(1, block=4)
    first.mover.close()
    assert make().earlier()[0][0] == hash_of(1)


def test_a_living_worker_keeps_its_folder_to_itself(make: Make) -> None:
    first, second = stored(make), make()
    assert first.disk is not None and second.disk is not None
    assert first.disk.folder != second.disk.folder
    assert second.earlier() == ([], 0)
    assert second.store(block=3, number=0) and second.fetch(0, block=5)
    assert (second.view[5] == second.view[3]).all()


def test_a_killed_worker_leaves_its_folder_to_the_next(make: Make, tmp_path: Path) -> None:
    script = (
        "import sys; from fakes.tier_memory import *; m = TierMemory(Path(sys.argv[1]));"
        "m.store(1, 1); print('stored', flush=True); import time; time.sleep(60)"
    )
    paths = os.pathsep.join(str(Path(__file__).parents[n]) for n in (2,))
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"stored\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert make().earlier() == ([hash_of(1)], 0)


@pytest.mark.parametrize("offset", [0, 8, 10, 12, 16, 32, 48, 56, 64, HEADER_BYTES, -1])
def test_a_changed_byte_is_refused(make: Make, offset: int) -> None:
    memory = stored(make)
    path = memory.files()[0]
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)
    before = memory.view.copy()
    assert not memory.do("read", 0, hash_of(0), 1)
    assert (memory.view == before).all()
    # The others are served.
    assert memory.fetch(1, block=5)


@pytest.mark.parametrize("change", ["cut", "header only", "empty", "longer", "gone"])
def test_a_file_of_another_length_is_refused(make: Make, change: str) -> None:
    memory = stored(make)
    path = memory.files()[0]
    raw = path.read_bytes()
    lengths = {"cut": len(raw) - 1, "header only": HEADER_BYTES, "empty": 0}
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(raw + b"x" if change == "longer" else raw[: lengths[change]])
    assert not memory.do("read", 0, hash_of(0), 1)
    memory.mover.close()
    # Such files are not found again.
    again = make()
    assert set(again.earlier()[0]) == {hash_of(1), hash_of(2)}
    assert len(again.files()) == 2


def test_another_blocks_record_under_this_name_is_refused(make: Make) -> None:
    memory = stored(make)
    first, second, _ = memory.files()
    first.write_bytes(second.read_bytes())
    assert not memory.do("read", 0, hash_of(0), 1)


@pytest.mark.parametrize("other", [{"digest": "f" * 32}, {"codec": "int8"}])
def test_records_of_another_model_or_codec_are_left_alone(
    make: Make, other: dict[str, str]
) -> None:
    first = stored(make)
    first.mover.close()
    second = make(**other)
    space = 3 * disk_record_bytes(SPEC.block_bytes)
    assert second.earlier() == ([], space)
    assert not second.do("read", 0, hash_of(0), 1)
    second.mover.close()
    assert len(make().earlier()[0]) == 3


def test_a_renamed_digest_does_not_make_records_ones_own(make: Make, tmp_path: Path) -> None:
    first = stored(make)
    first.mover.close()
    assert first.disk is not None
    (first.disk.folder / f"{DIGEST}.none").rename(first.disk.folder / f"{'f' * 32}.none")
    second = make(digest="f" * 32)
    assert len(second.earlier()[0]) == 3
    assert not second.do("read", 0, hash_of(0), 1)


def test_half_written_files_are_removed_at_the_next_start(make: Make) -> None:
    first = stored(make)
    part = first.files()[0].with_suffix(".part")
    part.write_bytes(b"half")
    first.mover.close()
    assert len(make().earlier()[0]) == 3
    assert not part.exists()


def test_a_full_disk_fails_the_write_and_leaves_no_file(make: Make) -> None:
    memory = make()
    assert memory.do("save", 0, 0, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses in the midst of the file, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPEC.block_bytes // 2, hard))
    try:
        assert not memory.do("write", 0, 0, hash_of(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert memory.disk is not None
    assert [p for p in memory.disk.folder.rglob("*") if p.is_file()] == [
        memory.disk.folder / "claim"
    ]
    assert memory.do("write", 0, 0, hash_of(0)) and memory.fetch(0, block=5)


def test_no_space_left_fails_the_write(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = stored(make, count=1)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not memory.do("write", 0, 0, hash_of(9))
    assert len(memory.files()) == 1
    assert memory.fetch(0, block=5)


def test_a_disk_that_hangs_holds_up_nobody_else(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = stored(make)
    go_on = threading.Event()
    read = DiskTier.read

    def slow(self: DiskTier, group: int, block_hash: bytes, record: np.ndarray) -> int:
        assert go_on.wait(20)
        return read(self, group, block_hash, record)

    monkeypatch.setattr(DiskTier, "read", slow)
    answers: list[bool] = []
    memory.mover.read(0, hash_of(0), 1, answers.append)
    # Copies within memory and writes go on meanwhile.
    assert memory.do("save", 0, 4, 2) and memory.do("load", 0, 2, 6)
    assert memory.do("write", 0, 2, hash_of(7))
    assert not answers
    go_on.set()
    while not answers:
        memory.inbox.get(timeout=20)()
    assert answers == [True]


def test_a_slot_that_changed_in_memory_is_not_loaded(make: Make) -> None:
    memory = make()
    assert memory.do("save", 0, 0, 0)
    memory.host.slots[0][0][11] ^= 4
    before = memory.view.copy()
    assert not memory.do("load", 0, 0, 5)
    assert (memory.view == before).all()


def test_a_slot_that_changed_before_it_was_written_is_refused_when_read(make: Make) -> None:
    memory = make()
    assert memory.do("save", 0, 0, 0)
    memory.host.slots[0][0][11] ^= 4
    assert memory.do("write", 0, 0, hash_of(0))
    assert not memory.do("read", 0, hash_of(0), 1)


def test_deleted_records_are_gone(make: Make) -> None:
    memory = stored(make)
    memory.mover.delete(0, hash_of(1))
    # Writes come after deletions.
    assert memory.do("write", 0, 0, hash_of(5))
    assert not memory.do("read", 0, hash_of(1), 1)
    assert len(memory.files()) == 3


def test_what_cannot_be_encoded_is_not_saved(make: Make) -> None:
    memory = make(codec="int8")
    memory.view[0].view(np.float32)[3] = np.nan
    assert not memory.do("save", 0, 0, 0)
    assert memory.store(block=1, number=1) and memory.fetch(1, block=5)
    error = memory.view[5].view(np.float32) - memory.view[1].view(np.float32)
    assert 0 < np.abs(error).max() < 0.05


def test_a_header_is_checked_field_by_field() -> None:
    kind = Kind(DIGEST, 0, "none", 100)
    header = kind.header(hash_of(1), 77)
    assert kind.checksum_in(header, hash_of(1)) == 77
    for other in (Kind("f" * 32, 0, "none", 100), Kind(DIGEST, 1, "none", 100)):
        with pytest.raises(BadRecordError):
            other.checksum_in(header, hash_of(1))
    for wrong in (Kind(DIGEST, 0, "int8", 100), Kind(DIGEST, 0, "none", 101)):
        with pytest.raises(BadRecordError):
            wrong.checksum_in(header, hash_of(1))
    with pytest.raises(BadRecordError):
        kind.checksum_in(header, hash_of(2))
