"""Counters for what is counted at every request: a quarter of the client library's time, labels
included.

That one takes a lock and checks its labels each time. These, as the histograms beside them, are
counted and read on one thread (the gateway's event loop); the library renders them like its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily


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


class Counter:
    """A family of counts, told apart by labels. `name` ends in `_total`."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._label_names = tuple(label_names)
        self._counts: dict[tuple[str, ...], Count] = {}
        if not label_names:
            # Shown from the start, as the library does.
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The count of these label values. Raises ValueError for too many or too few."""
        count = self._counts.get(values)
        if count is None:
            if len(values) != len(self._label_names):
                raise ValueError(f"{self.name} has labels {self._label_names}, got {values}")
            count = self._counts[values] = Count()
        return count

    def inc(self, amount: float = 1.0) -> None:
        """For a counter without labels."""
        self.labels().inc(amount)

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop the counts that have all these labels."""
        wanted = [(self._label_names.index(name), value) for name, value in labels.items()]
        self._counts = {
            values: count
            for values, count in self._counts.items()
            if not all(values[at] == value for at, value in wanted)
        }

    def describe(self) -> list[CounterMetricFamily]:
        """Its name and text; the registry refuses a second one of that name."""
        return [CounterMetricFamily(self.name, self._documentation, labels=self._label_names)]

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The library's view of all counts."""
        (family,) = self.describe()
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family
