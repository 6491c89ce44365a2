"""CRDs of others, which a cluster may have or not, as their projects publish them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import yaml

from cluster.cluster import Cluster
from cluster.tools import Tools


@contextlib.contextmanager
def outside_crds(cluster: Cluster, *whose: str) -> Iterator[None]:
    """Installed within: of "gateway-api", "lws", "prometheus-operator".

    Afterwards they are gone, with all objects of these kinds, since other tests are about clusters
    without them. What a cluster had before is left as it was. Raises MissingTools.
    """
    added: list[str] = []
    try:
        for each in whose:
            for path in sorted(Tools().crds(each).glob("*.yaml")):
                name = yaml.load(path.read_bytes(), yaml.CSafeLoader)["metadata"]["name"]
                if cluster.get("crd", name) is None:
                    # Some are too long for the annotation of a client-side apply.
                    cluster.kubectl("apply", "--server-side", "-f", str(path))
                    added.append(name)
        cluster.wait_for_crds(*added)
        yield
    finally:
        if added:
            cluster.kubectl("delete", "crd", *added, "--timeout=60s")
