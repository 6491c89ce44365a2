"""What all tests of this folder get."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# Of a test that starts a deployment, on a machine that is busy with other things.
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
