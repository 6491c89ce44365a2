"""Bring the cluster's CRDs to those in a folder: `python -m baton_operator.crds.apply FOLDER`.

The chart's Job before an upgrade runs it, because Helm installs CRDs once and never changes them.
Server-side apply with force: whoever wrote them before, the chart's definitions hold.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import yaml

from baton.core.errors import ConfigError
from baton.telemetry.logging import event, setup
from baton_operator.kinds import Kind
from baton_operator.kube.client import ApiError, KubeClient, Manifest, login

# Not __name__, which is "__main__" in the Job.
log = logging.getLogger("baton_operator.crds.apply")

CRD = Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
TIMEOUT_S = 30.0


def read(folder: Path) -> list[Manifest]:
    """The CRDs in `folder/*.yaml`. Raises ConfigError for none, and for anything else in there."""
    manifests = [
        manifest
        for path in sorted(folder.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest is not None
    ]
    for manifest in manifests:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        if found != CRD.kind:
            raise ConfigError(f"{folder}: expected CRDs alone, found {found}")
    if not manifests:
        raise ConfigError(f"{folder}: no CRDs in it")
    return manifests


async def apply(client: KubeClient, manifests: list[Manifest]) -> None:
    """All of them. Raises ApiError at the first that is refused."""
    for manifest in manifests:
        await client.apply(CRD, manifest, force=True)
        log.info(*event("crd_applied", crd=manifest["metadata"]["name"]))


async def _main(folder: Path) -> None:
    manifests = read(folder)
    client = KubeClient(await login(), TIMEOUT_S)
    try:
        await apply(client, manifests)
    finally:
        await client.close()


def main() -> int:
    setup("info", "json")
    logging.getLogger("baton_operator").setLevel(logging.INFO)
    if len(sys.argv) != 2:
        print("usage: python -m baton_operator.crds.apply FOLDER", file=sys.stderr)
        return 2
    try:
        asyncio.run(_main(Path(sys.argv[1])))
    except (ApiError, ConfigError) as error:
        print(f"CRDs not applied: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
