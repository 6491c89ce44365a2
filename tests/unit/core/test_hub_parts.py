"""Parts of files in the hub's cache, and the room that a model needs."""

from __future__ import annotations

import os
from pathlib import Path

from baton.core import hub


def part(repository: Path, name: str, written_at: float) -> Path:
    path = repository / "blobs" / f"{name}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 10)
    os.utime(path, (written_at, written_at))
    return path


def test_only_parts_that_nobody_writes_to_are_swept(tmp_path: Path) -> None:
    old, new = part(tmp_path, "old", 1_000.0), part(tmp_path, "new", 3_000.0)
    whole = tmp_path / "blobs" / "whole"
    whole.write_bytes(b"x")
    os.utime(whole, (1_000.0, 1_000.0))
    hub.sweep(tmp_path, before=2_000.0)
    assert not old.exists()
    assert new.exists()
    assert whole.exists()
    hub.sweep(tmp_path / "nowhere", before=2_000.0)


def test_only_parts_that_this_process_has_open_are_dropped(tmp_path: Path) -> None:
    others = part(tmp_path, "others", 1_000.0)
    mine = tmp_path / "blobs" / "mine.incomplete"
    with mine.open("wb") as file, (tmp_path / "mine").open("wb"):
        hub.drop_open_parts()
        file.write(b"what comes after that goes nowhere")
    assert not mine.exists()
    assert others.exists()
    assert (tmp_path / "mine").exists()
