"""How long the tests of a folder may take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest


def limit_time(items: Iterable[pytest.Item], folder: Path, seconds: float) -> None:
    """Give this timeout to the folder's tests that set none themselves."""
    for item in items:
        if item.path.is_relative_to(folder) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(seconds))
