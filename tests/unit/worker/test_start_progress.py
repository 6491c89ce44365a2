"""How far a start is."""

from __future__ import annotations

from baton.worker.start_progress import Stage, StartProgress
from fakes.clock import ManualClock


def test_each_stage_counts_its_own_bytes_and_seconds() -> None:
    clock = ManualClock()
    progress = StartProgress(clock)
    clock.advance(2)
    progress.advance(10, 100)
    now = progress.look()
    assert (now.stage, now.num_bytes, now.total_bytes) == (Stage.DOWNLOADING, 10, 100)
    assert now.seconds == 2
    progress.begin(Stage.LOADING)
    clock.advance(3)
    now = progress.look()
    assert (now.stage, now.num_bytes, now.total_bytes, now.seconds) == (Stage.LOADING, 0, None, 3)
    progress.begin(Stage.REGISTERING)
    assert progress.took_s == {Stage.DOWNLOADING: 2, Stage.LOADING: 3}
