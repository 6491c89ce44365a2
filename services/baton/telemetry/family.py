"""What the gateway's own counters and histograms share: one child for each set of labels.

Children are made and read on one thread (the gateway's event loop), so nothing is locked; the
client library renders a family like one of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

C = TypeVar("C")
M = TypeVar("M", bound=Metric)


class Family(ABC, Generic[C, M]):
    """Children told apart by labels, and how the library is to see them."""

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
        self._children: dict[tuple[str, ...], C] = {}
        if not label_names:
            # Shown from the start, as the library does.
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> C:
        """The child of these label values. Raises ValueError for too many or too few."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._label_names):
                raise ValueError(f"{self.name} has labels {self._label_names}, got {values}")
            child = self._children[values] = self._new()
        return child

    def describe(self) -> list[M]:
        """Its name and text; the registry refuses a second one of that name."""
        return [self._empty()]

    def collect(self) -> Iterator[M]:
        """The library's view of all children."""
        metric = self._empty()
        for values, child in self._children.items():
            self._show(metric, values, child)
        yield metric

    @abstractmethod
    def _new(self) -> C:
        """A child of labels that were not there before."""

    @abstractmethod
    def _empty(self) -> M:
        """The library's family, without children."""

    @abstractmethod
    def _show(self, metric: M, values: Sequence[str], child: C) -> None:
        """Add a child to the library's family."""
