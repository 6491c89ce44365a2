"""Where the deployment's token is when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from baton.core.settings import Settings
from baton.core.token import read_or_create_token


def default_token_file() -> Path:
    """One per user, so that parts started by hand find each other on a machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "baton" / "token"


def deployment_token(settings: Settings) -> tuple[str, Path]:
    """The token and its file, which is made when absent. Raises ConfigError."""
    path = settings.token_file or default_token_file()
    return read_or_create_token(path), path
