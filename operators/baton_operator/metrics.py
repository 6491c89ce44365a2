"""Every metric of the operator, in one place; the registry is given, so each test has its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from baton_operator.kube.object_cache import Key

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Seconds: a round without changes to one that writes forty objects through a slow API server.
ROUND_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STATUSES = ("True", "False", "Unknown")


class OperatorMetrics:
    """The metrics of one process.

    `result` of a round is ok, refused (the API server would not have something), failed (to be
    tried again) or gone (the service was deleted). `verb`, `resource` and `code` are the API's;
    code 0 is no answer.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.condition = Gauge(
            "baton_condition",
            "1 for the status that a condition of a ModelService has, 0 for the others.",
            ("namespace", "service", "condition", "status"),
            registry=registry,
        )
        self.reconcile_duration = Histogram(
            "baton_operator_reconcile_duration_seconds",
            "One round of one service, calls to the API server and gateways included.",
            ("result",),
            buckets=ROUND_BUCKETS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "baton_operator_queue_depth", "Services whose round is overdue.", registry=registry
        )
        self.queue_duration = Histogram(
            "baton_operator_queue_duration_seconds",
            "How long a service's round was overdue when it began.",
            buckets=ROUND_BUCKETS,
            registry=registry,
        )
        self.services = Gauge("baton_operator_services", "Services known.", registry=registry)
        self.api_calls = Counter(
            "baton_operator_api_calls_total",
            "Calls to the API server, but for lists and watches of kopf.",
            ("verb", "resource", "code"),
            registry=registry,
        )
        self.leader = Gauge(
            "baton_operator_leader", "1 while this process holds the Lease.", registry=registry
        )
        self.watch_starts = Counter(
            "baton_operator_watch_starts_total",
            "Times that watching began: at the start, when CRDs came or went, after a failure.",
            registry=registry,
        )
        self._conditions: dict[Key, frozenset[str]] = {}

    def note_call(self, verb: str, resource: str, code: str) -> None:
        self.api_calls.labels(verb, resource, code).inc()

    def set_conditions(self, key: Key, conditions: Iterable[Mapping[str, str]]) -> None:
        """As the service's status has them now; those that it has no more are dropped."""
        statuses = {each["type"]: each["status"] for each in conditions}
        for gone in self._conditions.get(key, frozenset()) - statuses.keys():
            self._remove(key, gone)
        for condition, has in statuses.items():
            for status in STATUSES:
                self.condition.labels(*key, condition, status.lower()).set(status == has)
        self._conditions[key] = frozenset(statuses)

    def forget(self, key: Key) -> None:
        """The service is gone, and its series with it."""
        for condition in self._conditions.pop(key, frozenset()):
            self._remove(key, condition)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _remove(self, key: Key, condition: str) -> None:
        for status in STATUSES:
            self.condition.remove(*key, condition, status.lower())
