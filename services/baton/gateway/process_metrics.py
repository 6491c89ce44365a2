"""The metrics of gateway processes that share a port: each with a label of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from baton.gateway.process_pages import ProcessPages

LABEL = "process"


async def all_metrics(pages: ProcessPages) -> bytes:
    """The metrics of all processes; pages are in Prometheus' text format."""
    return merged({pages.name: pages.render(), **await pages.others()})


def merged(pages: dict[str, bytes]) -> bytes:
    """One page with the samples of all, each labelled with the process that it comes from."""
    families: dict[str, Metric] = {}
    for process, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page.decode()):
            found = families.get(family.name)
            if found is None:
                found = families[family.name] = Metric(
                    family.name, family.documentation, family.type
                )
            for sample in family.samples:
                found.samples.append(sample._replace(labels={**sample.labels, LABEL: process}))
    registry = CollectorRegistry()
    registry.register(_Page(families.values()))
    return generate_latest(registry)


class _Page:
    """A collector of what is there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
