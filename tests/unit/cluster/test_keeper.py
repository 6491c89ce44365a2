"""The thread behind Serve's workers."""

from __future__ import annotations

import logging
import threading

import pytest

from baton.cluster import keeper as keeper_module
from baton.cluster.keeper import Keeper

WAIT_S = 30.0


class Steps:
    """Fails while told to; tells how often it was called."""

    def __init__(self) -> None:
        self.fails = False
        self.num = 0
        self.called = threading.Condition()

    def __call__(self) -> None:
        with self.called:
            self.num += 1
            self.called.notify_all()
            if self.fails:
                raise RuntimeError("ray is away")

    def wait_more(self, count: int = 2) -> None:
        """Until that many calls have begun from now on, so all but the last have ended."""
        with self.called:
            wanted = self.num + count
            assert self.called.wait_for(lambda: self.num >= wanted, WAIT_S)


def test_a_keeper_outlives_its_failures_and_tells_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(keeper_module, "PATIENCE_S", 0.0)
    steps = Steps()
    keeper = Keeper("worker-keeper", steps, 0.001)
    keeper.start()
    steps.wait_more()
    assert keeper.problem() is None
    steps.fails = True
    steps.wait_more(3)
    assert keeper.problem() == "worker-keeper fails: RuntimeError: ray is away; see the log"
    failures = [r for r in caplog.records if "keeper_failed" in r.getMessage()]
    assert failures and failures[0].levelno == logging.ERROR and failures[0].exc_info
    steps.fails = False
    steps.wait_more(3)
    assert keeper.problem() is keeper.failure() is None
    keeper.stop()
    assert not any(thread.name == "worker-keeper" for thread in threading.enumerate())


def test_a_hiccup_is_no_problem_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_BACKOFF_S", 0.001)
    steps = Steps()
    steps.fails = True
    keeper = Keeper("worker-keeper", steps, 0.001)
    keeper.start()
    steps.wait_more(3)
    assert keeper.problem() is None
    assert keeper.failure() == "RuntimeError: ray is away"
    keeper.stop()
