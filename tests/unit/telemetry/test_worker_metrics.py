"""What a worker's /metrics says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from baton.telemetry.worker_metrics import TierReading, WorkerMetrics, WorkerReading


def samples(reading: WorkerReading) -> dict[tuple[str, tuple[str, ...]], float]:
    text = WorkerMetrics(lambda: reading).render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_worker_that_serves() -> None:
    found = samples(
        WorkerReading(
            labels={"worker": "w1", "role": "decode"},
            started=True,
            ready=True,
            draining=False,
            start_s={"loading": 2.5},
            heartbeat_age_s=0.25,
            num_steps=7,
            num_generated_tokens=70,
            num_running=3,
            kv_blocks={"free": 10, "reserved": 2},
            tiers=(TierReading("host", 5, 50, {"hits": 4}),),
        )
    )
    assert found["baton_worker_info", ("decode", "w1")] == 1
    assert found["baton_worker_started", ()] == found["baton_worker_ready", ()] == 1
    assert found["baton_worker_draining", ()] == 0
    assert found["baton_worker_start_seconds", ("loading",)] == 2.5
    assert found["baton_worker_heartbeat_age_seconds", ()] == 0.25
    assert found["baton_worker_engine_steps_total", ()] == 7
    assert found["baton_worker_generated_tokens_total", ()] == 70
    assert found["baton_worker_kv_blocks", ("reserved",)] == 2
    assert found["baton_worker_tier_bytes", ("capacity", "host")] == 50
    assert found["baton_worker_tier_blocks_total", ("hits", "host")] == 4
    assert found["process_resident_memory_bytes", ()] > 0


def test_before_the_engine_runs_nothing_is_made_up() -> None:
    found = samples(
        WorkerReading(
            labels={"worker": "w1"},
            started=False,
            ready=False,
            draining=False,
            start_s={},
            heartbeat_age_s=None,
        )
    )
    names = {name for name, _ in found}
    assert "baton_worker_heartbeat_age_seconds" not in names
    assert "baton_worker_kv_blocks" not in names
    assert found["baton_worker_started", ()] == 0
