"""Counters for what is counted at every request: a quarter of the client library's time, labels
included.

That one takes a lock and checks its labels each time. These, as the histograms beside them, are
counted and read on one thread (the gateway's event loop); the library renders them like its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client.core import CounterMetricFamily

from baton.telemetry.family import Family


class Count:
    """The value of one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it. Raises ValueError for less than nothing."""
        if amount < 0:
            raise ValueError(f"a counter only rises, got {amount}")
        self.value += amount


class Counter(Family[Count, CounterMetricFamily]):
    """A family of counts. `name` ends in `_total`."""

    def inc(self, amount: float = 1.0) -> None:
        """For a counter without labels."""
        self.labels().inc(amount)

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop the counts that have all these labels."""
        wanted = [(self._label_names.index(name), value) for name, value in labels.items()]
        self._children = {
            values: count
            for values, count in self._children.items()
            if not all(values[at] == value for at, value in wanted)
        }

    def _new(self) -> Count:
        return Count()

    def _empty(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self._documentation, labels=self._label_names)

    def _show(self, metric: CounterMetricFamily, values: Sequence[str], child: Count) -> None:
        metric.add_metric(values, child.value)
