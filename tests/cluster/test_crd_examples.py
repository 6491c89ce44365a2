"""Every file under deploy/examples is applied, as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.baton_objects import EXAMPLES, install_crds
from cluster.cluster import Cluster

FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.fixture(scope="module")
def applied(cluster: Cluster) -> Iterator[list[tuple[str, str]]]:
    """(kind, name) of what there is after all of them were applied."""
    install_crds(cluster)
    with cluster.namespace() as namespace:
        arguments = ("-n", namespace, "-f", str(EXAMPLES), "--recursive")

        def versions() -> dict[str, str]:
            found = (each["metadata"] for each in cluster.get_all("bms", namespace))
            return {each["name"]: each["resourceVersion"] for each in found}

        try:
            cluster.kubectl("apply", *arguments)
            before = versions()
            # Again changes nothing, although the server has filled in defaults.
            cluster.kubectl("apply", *arguments)
            assert versions() == before
            printed = cluster.kubectl("get", *arguments, "-o", "yaml")
            yield [
                (each["kind"], each["metadata"]["name"])
                for each in yaml.safe_load(printed)["items"]
            ]
        finally:
            # Some are not in the namespace, and not deleted with it.
            cluster.kubectl("delete", *arguments, "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_is_applied(applied: list[tuple[str, str]], file: Path) -> None:
    documents = [each for each in yaml.safe_load_all(file.read_text()) if each]
    assert documents
    for each in documents:
        assert (each["kind"], each["metadata"]["name"]) in applied
