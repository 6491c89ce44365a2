"""Histograms for what is measured at every token: `observe` takes a fifth of the client library's.

That one takes a lock for each of two counters and looks through the buckets one by one. These are
observed and read on one thread (the gateway's event loop) and keep plain numbers; the library
renders them like its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import INF, floatToGoString

from baton.telemetry.family import Family


class Series:
    """The values of one set of labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, or so many of it, in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Show it as Prometheus wants it: cumulative counts, infinity as the last bound."""
        bounds = map(floatToGoString, [*self._bounds, INF])
        counts = map(float, accumulate(self._counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), self._sum)


class Histogram(Family[Series, HistogramMetricFamily]):
    """A family of series. `bounds` of the buckets rise."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[float],
        label_names: Sequence[str],
        registry: CollectorRegistry,
    ) -> None:
        self.bounds = tuple(map(float, bounds))
        super().__init__(name, documentation, label_names, registry)

    def observe(self, value: float) -> None:
        """For a histogram without labels."""
        self.labels().observe(value)

    def _new(self) -> Series:
        return Series(self.bounds)

    def _empty(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self._documentation, labels=self._label_names)

    def _show(self, metric: HistogramMetricFamily, values: Sequence[str], child: Series) -> None:
        child.add_to(metric, values)
