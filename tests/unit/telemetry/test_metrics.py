"""Names and units of the metrics, and series of workers that are gone."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import Gauge, MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from baton.telemetry.counter import Counter
from baton.telemetry.histogram import Histogram
from baton.telemetry.metrics import Metrics


def _all(metrics: Metrics) -> dict[str, MetricWrapperBase | Histogram | Counter]:
    kinds = (MetricWrapperBase, Histogram, Counter)
    return {k: v for k, v in vars(metrics).items() if isinstance(v, kinds)}


def test_names_follow_prometheus() -> None:
    families = {
        family.name: metric for metric in _all(Metrics()).values() for family in metric.describe()
    }
    for name, metric in families.items():
        assert re.fullmatch(r"baton_[a-z_]+[a-z]", name)
        if isinstance(metric, Histogram):
            assert name.endswith(("_seconds", "_bytes", "_tokens", "_bytes_per_second"))
        if isinstance(metric, Gauge):
            assert not name.endswith("_total")
        for unit in ("_ms", "_us", "_milliseconds", "_kb"):
            assert not name.endswith(unit)


def test_counters_end_with_total() -> None:
    metrics = Metrics()
    metrics.requests.labels("m", "chat", "ok").inc()
    assert b'baton_requests_total{api="chat",code="ok",model="m"} 1.0' in metrics.render()
    assert any(isinstance(metric, Counter) for metric in _all(metrics).values())


def test_every_metric_is_in_the_registry_it_was_given() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    registered = {family.name for family in registry.collect()}
    described = {f.name for metric in _all(metrics).values() for f in metric.describe()}
    assert described == registered
    # A second set in the same registry would count twice.
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_the_output_is_prometheus_text() -> None:
    metrics = Metrics()
    metrics.time_to_first_token.labels("m").observe(0.2)
    metrics.queue_length.labels("normal", "other").set(3)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    assert families["baton_queue_length"].samples[0].value == 3
    ttft = families["baton_time_to_first_token_seconds"]
    counts = {s.labels["le"]: s.value for s in ttft.samples if s.name.endswith("_bucket")}
    assert counts["0.1"] == 0
    assert counts["0.2"] == 1
    assert not any(name.endswith("_created") for name in families)


def test_buckets_rise() -> None:
    for metric in _all(Metrics()).values():
        if isinstance(metric, Histogram):
            assert list(metric.bounds) == sorted(set(metric.bounds))


def test_a_lost_worker_leaves_no_series() -> None:
    metrics = Metrics()
    for worker in ("gone", "here"):
        metrics.running.labels(worker).set(1)
        metrics.kv_blocks.labels(worker, "free").set(5)
        metrics.kv_blocks.labels(worker, "cached").set(5)
    metrics.forget_worker("gone")
    metrics.forget_worker("never seen")
    text = metrics.render().decode()
    assert "gone" not in text
    assert text.count('worker="here"') == 3
