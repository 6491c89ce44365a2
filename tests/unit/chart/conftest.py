"""The chart, rendered by each major of Helm."""

from __future__ import annotations

import pytest

from cluster.tools import Tools
from unit.chart.rendering import Chart


@pytest.fixture(params=["helm3", "helm4"])
def chart(request: pytest.FixtureRequest) -> Chart:
    return Chart(Tools().path(request.param))
