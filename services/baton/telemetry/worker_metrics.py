"""The metrics that a worker serves itself, at its health port.

Gateways tell of workers too (`baton_kv_blocks`, ...), from load reports; these are the worker's own
and stay true when no gateway sees it. They are read when somebody asks, so they cost a busy engine
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "baton_worker_"


@dataclass(frozen=True, slots=True)
class TierReading:
    """A tier below the device; counts of blocks are since the start."""

    tier: str
    used_bytes: int
    capacity_bytes: int
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """Everything at one moment. `kv_blocks` are counted by state as in gateways' metrics."""

    labels: Mapping[str, str]
    """What is always the same, for `baton_worker_info`."""
    started: bool
    ready: bool
    draining: bool
    start_s: Mapping[str, float]
    """Seconds that each stage of the start took."""
    heartbeat_age_s: float | None
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_running: int = 0
    num_waiting: int = 0
    queued_prefill_tokens: int = 0
    queue_room: int = 0
    step_s: float = 0.0
    kv_blocks: Mapping[str, int] = field(default_factory=dict)
    tiers: tuple[TierReading, ...] = ()


class WorkerMetrics(Collector):
    """The metrics of one worker, read from `read()` at each scrape."""

    def __init__(self, read: Callable[[], WorkerReading]) -> None:
        self._read = read
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Prometheus' text format; send it as CONTENT_TYPE."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise read the worker when it is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._read()
        info = GaugeMetricFamily(PREFIX + "info", "Always 1.", labels=list(now.labels))
        info.add_metric(list(now.labels.values()), 1)
        yield info
        yield _gauge("started", "1 once a lease has been written.", now.started)
        yield _gauge("ready", "1 while it takes new requests.", now.ready)
        yield _gauge("draining", "1 while it is to be emptied.", now.draining)
        yield _by("start_seconds", "What each stage of the start took.", "stage", now.start_s)
        if now.heartbeat_age_s is not None:
            text = "Since the engine's loop last got round."
            yield _gauge("heartbeat_age_seconds", text, now.heartbeat_age_s)
        yield _counter("engine_steps", "Steps of the engine.", now.num_steps)
        yield _counter("prompt_tokens", "Prompt tokens computed.", now.num_prompt_tokens)
        yield _counter("generated_tokens", "Tokens generated.", now.num_generated_tokens)
        yield _gauge("running_sequences", "Sequences in the batch.", now.num_running)
        yield _gauge("waiting_sequences", "Sequences that wait.", now.num_waiting)
        text = "Prompt tokens taken and not computed."
        yield _gauge("queued_prefill_tokens", text, now.queued_prefill_tokens)
        yield _gauge("queue_room", "Sequences that the worker wants more.", now.queue_room)
        yield _gauge("step_seconds", "Moving average of steps without prefill.", now.step_s)
        yield _by("kv_blocks", "KV blocks by state.", "state", now.kv_blocks)
        if now.tiers:
            yield from _tiers(now.tiers)


def _tiers(tiers: tuple[TierReading, ...]) -> Iterable[Metric]:
    size = GaugeMetricFamily(
        PREFIX + "tier_bytes", "Of a tier below the device.", labels=["tier", "of"]
    )
    blocks = CounterMetricFamily(
        PREFIX + "tier_blocks", "What happened to blocks of a tier.", labels=["tier", "event"]
    )
    for tier in tiers:
        size.add_metric([tier.tier, "used"], tier.used_bytes)
        size.add_metric([tier.tier, "capacity"], tier.capacity_bytes)
        for name, count in tier.events.items():
            blocks.add_metric([tier.tier, name], count)
    return size, blocks


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
