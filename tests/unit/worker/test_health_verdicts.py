"""What probes are told, state by state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.worker import health
from baton.worker.health import Heartbeat, Vitals
from baton.worker.lifecycle import WorkerState
from baton.worker.start_progress import Progress, Stage

BOUND_S = 300.0


def vitals(
    stage: Stage = Stage.READY,
    state: WorkerState = WorkerState.READY,
    *,
    registered: bool = True,
    beat: Heartbeat | None = Heartbeat(True, 0.1, 5),  # noqa: B008 - it is frozen
    num_bytes: int = 0,
    total_bytes: int | None = None,
) -> Vitals:
    return Vitals(
        Progress(stage, num_bytes, total_bytes, 12.0), state, registered, beat, "redis://r:1"
    )


def test_a_serving_worker_passes_every_probe() -> None:
    it = vitals()
    assert health.started(it).ok
    assert health.ready(it).ok
    assert health.alive(it, BOUND_S).ok


@pytest.mark.parametrize(
    ("stage", "sizes", "reason"),
    [
        (Stage.DOWNLOADING, (1_200_000, 4_000_000), "looks for the model: 1.2 of 4.0 MB in 12 s"),
        (Stage.DOWNLOADING, (0, None), "looks for the model: 12 s so far"),
        (Stage.LOADING, (500_000, None), "loads the model: 0.5 MB in 12 s"),
        (Stage.REGISTERING, (0, None), "store at redis://r:1 has not taken it for 12 s; check"),
    ],
)
def test_a_starting_worker_says_how_far_it_is_and_is_alive(
    stage: Stage, sizes: tuple[int, int | None], reason: str
) -> None:
    it = vitals(
        stage,
        WorkerState.STARTING,
        registered=False,
        beat=None,
        num_bytes=sizes[0],
        total_bytes=sizes[1],
    )
    assert reason in health.started(it).reason
    assert health.ready(it).reason == health.started(it).reason
    assert health.alive(it, BOUND_S).ok


@pytest.mark.parametrize("state", [WorkerState.DRAINING, WorkerState.LEAVING, WorkerState.STOPPED])
def test_a_draining_worker_is_unready_and_nothing_else(state: WorkerState) -> None:
    it = vitals(state=state)
    assert state.value in health.ready(it).reason
    assert health.started(it).ok
    assert health.alive(it, BOUND_S).ok


@given(st.floats(0, 10 * BOUND_S))
def test_only_a_loop_beyond_the_bound_is_stuck(age_s: float) -> None:
    verdict = health.alive(vitals(beat=Heartbeat(True, age_s, 1)), BOUND_S)
    assert verdict.ok == (age_s <= BOUND_S)
    if not verdict.ok:
        assert "worker.stuck_after_s, 300" in verdict.reason


def test_an_ended_engine_thread_is_death_until_the_worker_has_stopped() -> None:
    ended = Heartbeat(False, 0.0, 1)
    assert "has ended" in health.alive(vitals(beat=ended), BOUND_S).reason
    assert health.alive(vitals(state=WorkerState.STOPPED, beat=ended), BOUND_S).ok
