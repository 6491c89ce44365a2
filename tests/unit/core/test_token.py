"""The token file: made once, private, and refused with a reason when it is not fit."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from baton.core.errors import ConfigError
from baton.core.token import MAX_FILE_BYTES, new_token, read_or_create_token, read_token


def _file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_an_absent_file_is_made_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    token = read_or_create_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_or_create_token(path) == token
    assert read_token(path) == token
    assert [p.name for p in path.parent.iterdir()] == ["token"]


def test_the_umask_does_not_open_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        read_or_create_token(tmp_path / "token")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "token"
    barrier = threading.Barrier(8)
    tokens: list[str] = []

    def start() -> None:
        barrier.wait()
        tokens.append(read_or_create_token(path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 8
    assert set(tokens) == {read_token(path)}


def test_tokens_differ() -> None:
    assert new_token() != new_token()


def test_white_space_around_a_token_is_not_part_of_it(tmp_path: Path) -> None:
    assert read_token(_file(tmp_path / "token", b"  secret\r\n")) == "secret"


def test_a_group_may_read_a_mounted_secret(tmp_path: Path) -> None:
    assert read_token(_file(tmp_path / "token", b"secret", 0o440)) == "secret"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666])
def test_a_file_open_to_every_user_is_refused(tmp_path: Path, mode: int) -> None:
    path = _file(tmp_path / "token", b"secret", mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600") as caught:
        read_or_create_token(path)
    assert str(path) in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_refused_not_filled(tmp_path: Path, content: bytes) -> None:
    path = _file(tmp_path / "token", content)
    with pytest.raises(ConfigError, match="is empty"):
        read_or_create_token(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"two words", b"a\nb", b"\xff\xfe", "tökén".encode(), b"a\0"])
def test_what_no_header_can_carry_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="printable ASCII"):
        read_token(_file(tmp_path / "token", content))


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    assert len(read_token(_file(tmp_path / "token", b"a" * MAX_FILE_BYTES))) == MAX_FILE_BYTES
    with pytest.raises(ConfigError, match="not a token"):
        read_token(_file(tmp_path / "large", b"a" * (MAX_FILE_BYTES + 1)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_token(tmp_path / "none")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(ConfigError, match="dangling does not exist"):
        read_or_create_token(tmp_path / "dangling")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read token file"):
        read_token(tmp_path)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocker = _file(tmp_path / "blocker", b"")
    with pytest.raises(ConfigError, match=f"cannot make token file.*{blocker}"):
        read_or_create_token(blocker / "token")


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = read_or_create_token(Path("~/token"))
    assert read_token(tmp_path / "token") == token
