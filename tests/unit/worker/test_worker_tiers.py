"""Settings to tiers: what makes no sense is refused, what fails later is done without."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton.core.errors import ConfigError
from baton.core.settings import EngineSettings, TierSettings
from baton.engine.engine import Engine
from baton.engine.mock import MockRunner
from baton.engine.outputs import EngineLoad, Tier, TierLoad
from baton.gateway.workers.worker_totals import WorkerTotals
from baton.gateway.workers.worker_view import WorkerView, export_gauges
from baton.telemetry.metrics import Metrics
from baton.transfer.tiers.mover import Mover
from baton.v1 import common_pb2, session_pb2
from baton.worker.load import LoadMeter
from baton.worker.tiers import build_tiers

DIGEST = "cd" * 16


def build(**settings: Any) -> tuple[Engine, Mover | None]:
    engine_settings = EngineSettings(kind="mock", block_size=4, kv_blocks=16)
    runner = MockRunner(engine_settings, vocab_size=64)
    engine = Engine(engine_settings, runner, DIGEST)
    inbox: queue.Queue[Callable[[], None]] = queue.Queue()
    mover = build_tiers(
        TierSettings(**settings), engine, runner.groups, DIGEST, runner.arenas(), inbox.put
    )
    if mover is not None:
        mover.close()
    return engine, mover


def test_no_tiers_by_default() -> None:
    engine, mover = build()
    assert mover is None and engine.load().tiers == ()


def test_budgets_are_kept() -> None:
    engine, _ = build(host_bytes=10_000)
    (host,) = engine.load().tiers
    assert 0 < host.capacity_bytes <= 10_000


def test_a_disk_has_room_in_memory_to_pass_blocks_on(tmp_path: Path) -> None:
    engine, _ = build(disk_bytes=2**20, disk_path=tmp_path, max_copies=4)
    host, disk = engine.load().tiers
    assert host.capacity_bytes > 0 and 0 < disk.capacity_bytes <= 2**20


def test_a_disk_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="--disk-kv-path"):
        build(disk_bytes=2**20)


def test_host_memory_must_hold_a_block() -> None:
    with pytest.raises(ConfigError, match="--host-kv"):
        build(host_bytes=3)


@pytest.mark.parametrize("host_bytes", [0, 10_000])
def test_a_disk_that_cannot_be_used_is_done_without(tmp_path: Path, host_bytes: int) -> None:
    (tmp_path / "file").write_text("")
    engine, mover = build(
        disk_bytes=2**20, disk_path=tmp_path / "file" / "kv", host_bytes=host_bytes
    )
    assert (mover is None) == (host_bytes == 0)
    assert len(engine.load().tiers) == (host_bytes > 0)


def test_loads_and_gauges_name_the_tiers() -> None:
    tiers = (TierLoad(Tier.HOST, 10, 20, 1, 2, 3, 4), TierLoad(Tier.DISK, 30, 40, 5, 6, 7, 8))
    counts: dict[str, Any] = dict.fromkeys(
        ("num_waiting", "num_running", "queued_prefill_tokens", "free_blocks", "cached_blocks"), 0
    )
    load = EngineLoad(
        **counts,
        reserved_blocks=0,
        quarantined_blocks=0,
        queue_room=1,
        short_of_blocks=False,
        promotions=9,
        tiers=tiers,
    )
    report = LoadMeter().report(load, [], draining=False)
    metrics = Metrics()
    totals = WorkerTotals(metrics)
    view = _view(1, report)
    for _ in range(2):
        # The same report is seen more than once.
        export_gauges(metrics, [view])
        totals.add(view)
    text = metrics.render().decode()
    assert 'baton_tier_bytes{of="used",tier="disk",worker="w"} 30.0' in text
    assert 'baton_tier_blocks_total{event="drops",tier="host",worker="w"} 3.0' in text
    assert 'baton_promoted_blocks_total{worker="w"} 9.0' in text
    load = view.describe([view])["load"]
    assert load["promotions"] == 9
    assert [(t["tier"], t["hits"]) for t in load["tiers"]] == [("host", 1), ("disk", 5)]
    metrics.forget_worker("w")
    assert "baton_tier_blocks_total{" not in metrics.render().decode()


def test_totals_grow_by_what_is_new_and_a_new_life_counts_from_zero() -> None:
    metrics = Metrics()
    totals = WorkerTotals(metrics)
    for epoch, fetched in ((1, 5), (1, 7), (2, 3), (2, 4)):
        totals.add(_view(epoch, session_pb2.Load(fetched_blocks=fetched)))
    assert 'baton_fetched_blocks_total{worker="w"} 11.0' in metrics.render().decode()


def _view(epoch: int, report: session_pb2.Load) -> WorkerView:
    lease = common_pb2.WorkerLease(worker=common_pb2.WorkerRef(worker_id="w", epoch=epoch))
    up = {"has_session": True, "is_up": True, "was_up": True}
    return WorkerView(lease, report, **up, is_foreign=False, reason="")
