"""What every test gets: a clean environment and fixed seeds; and no suite is left out silently.

A suite is a mark whose tests need something that a machine may lack. Without it they are
deselected and the summary says so; suites named in BATON_TEST_REQUIRED (CI's) must run.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cluster.tools import MissingTools, Tools

# A developer's deployment must not reach the tests.
for name in [n for n in os.environ if n.startswith("BATON_")]:
    if not name.startswith(("BATON_TEST_", "BATON_BENCH_")):
        del os.environ[name]

# Neither how long an example takes nor how slowly a busy machine draws it decides a test.
settings.register_profile(
    "baton",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("baton")

REQUIRED = {s for s in os.environ.get("BATON_TEST_REQUIRED", "").split(",") if s}


def _no_cuda() -> str | None:
    # Importing torch takes seconds: only where a device may be.
    if not os.path.exists("/dev/nvidiactl"):
        return "there is no CUDA device"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _no_redis() -> str | None:
    if shutil.which("redis-server"):
        return None
    return "redis-server is missing (apt-get install redis-server)"


def _no_helm() -> str | None:
    try:
        for major in (3, 4):
            Tools().path(f"helm{major}")
    except MissingTools as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def _leaves_log_levels() -> Iterator[None]:
    """What a test sets up for the process that it plays is not for the tests after it."""
    loggers = [logging.getLogger(name) for name in (None, "baton", "baton_operator")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


SUITES: dict[str, Callable[[], str | None]] = {
    "gpu": _no_cuda,
    "redis": _no_redis,
    "helm": _no_helm,
    # A dependency: always there. Listed so that BATON_TEST_REQUIRED may name it.
    "ray": lambda: None,
}
_missing = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    unknown = REQUIRED - SUITES.keys()
    if unknown:
        raise pytest.UsageError(f"BATON_TEST_REQUIRED: no suite {', '.join(sorted(unknown))}")
    config.stash[_missing] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of suites that cannot run here."""
    missing = config.stash[_missing]
    for suite, reason_if_missing in SUITES.items():
        members = [item for item in items if item.get_closest_marker(suite)]
        reason = reason_if_missing() if members else None
        if reason is None:
            continue
        missing[suite] = reason
        config.hook.pytest_deselected(items=members)
        items[:] = [item for item in items if not item.get_closest_marker(suite)]
    wanted = REQUIRED & missing.keys()
    if wanted:
        reasons = "; ".join(f"{suite}: {missing[suite]}" for suite in sorted(wanted))
        raise pytest.UsageError(f"required suites cannot run: {reasons}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist tells the process that prints the summary."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["missing"] = session.config.stash[_missing]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    node.config.stash[_missing].update(getattr(node, "workeroutput", {}).get("missing", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for suite, reason in config.stash[_missing].items():
        terminalreporter.write_line(f"suite {suite} was not run: {reason}", yellow=True)
