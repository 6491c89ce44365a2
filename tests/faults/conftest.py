"""What all tests of this folder get."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.time_limits import limit_time

FOLDER = Path(__file__).parent
# Of a test that starts a deployment, on a machine that is busy with other things.
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    limit_time(items, FOLDER, TIMEOUT_S)
