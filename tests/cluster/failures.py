"""What a failed test shows of its cluster."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from cluster.processes import Processes


class ShowLogs:
    """A pytest plugin: the end of each program's log, as far as it came since the test began."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._sizes: dict[str, int] = {}

    def pytest_runtest_setup(self) -> None:
        self._sizes = self._processes.log_sizes()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            for name in self._processes.log_sizes():
                if text := self._processes.tail(name, self._sizes.get(name, 0)):
                    report.sections.append((f"{name}'s log", text))
        return report
