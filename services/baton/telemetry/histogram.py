"""Histograms for what is measured at every token: `observe` takes a fifth of the client library's.

That one takes a lock for each of two counters and looks through the buckets one by one. These are
observed and read on one thread (the gateway's event loop) and keep plain numbers; the library
renders them like its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import INF, floatToGoString


class Series:
    """The values of one set of labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Show it as Prometheus wants it: cumulative counts, infinity as the last bound."""
        bounds = map(floatToGoString, [*self._bounds, INF])
        counts = map(float, accumulate(self._counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), self._sum)


class Histogram:
    """A family of series, told apart by labels. `bounds` of the buckets rise."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[float],
        label_names: Sequence[str],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self.bounds = tuple(map(float, bounds))
        self._documentation = documentation
        self._label_names = tuple(label_names)
        self._series: dict[tuple[str, ...], Series] = {}
        if not label_names:
            # Shown from the start, as the library does.
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values. Raises ValueError for too many or too few."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._label_names):
                raise ValueError(f"{self.name} has labels {self._label_names}, got {values}")
            series = self._series[values] = Series(self.bounds)
        return series

    def observe(self, value: float) -> None:
        """For a histogram without labels."""
        self.labels().observe(value)

    def describe(self) -> list[HistogramMetricFamily]:
        """Its name and text; the registry refuses a second one of that name."""
        return [HistogramMetricFamily(self.name, self._documentation, labels=self._label_names)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The library's view of all series."""
        (family,) = self.describe()
        for values, series in self._series.items():
            series.add_to(family, values)
        yield family
