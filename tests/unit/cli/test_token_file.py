"""Where the token is when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.cli.token_file import deployment_token
from baton.core.settings import Settings


def test_parts_started_by_hand_share_the_users_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    token, path = deployment_token(Settings())
    assert path == tmp_path / "baton" / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert deployment_token(Settings()) == (token, path)


def test_a_file_that_is_named_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine"
    assert deployment_token(Settings(token_file=file))[1] == file
    assert file.exists()
