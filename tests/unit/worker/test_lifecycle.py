"""The states of a worker process."""

from __future__ import annotations

import pytest

from baton.worker.lifecycle import Lifecycle, WorkerState

S = WorkerState


def at(*states: WorkerState) -> Lifecycle:
    lifecycle = Lifecycle()
    for state in states:
        lifecycle.move(state)
    return lifecycle


def test_a_drain_can_be_undone_and_repeated() -> None:
    lifecycle = at(S.READY, S.DRAINING)
    assert lifecycle.is_draining and not lifecycle.move(S.DRAINING)
    assert lifecycle.move(S.READY) and not lifecycle.is_draining


def test_leaving_cannot_be_undone() -> None:
    lifecycle = at(S.READY, S.DRAINING, S.LEAVING)
    assert lifecycle.is_draining
    for state in (S.READY, S.DRAINING):
        with pytest.raises(ValueError, match="cannot go"):
            lifecycle.move(state)
    assert lifecycle.move(S.STOPPED) and not lifecycle.is_draining
