"""The chart as Helm renders it without a cluster."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy/helm/baton"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
Manifest = dict[str, Any]
# Ten times as fast, where libyaml is.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderFailed(Exception):
    """Helm refused; the message is what it said."""


class Chart:
    """Renders with one Helm, as release `rel` in namespace `ns` unless told otherwise."""

    def __init__(self, helm: Path) -> None:
        self._helm = helm

    def run(self, *args: str) -> str:
        """What helm prints. Raises RenderFailed."""
        return _run(self._helm, args)

    def text(
        self,
        *sets: str,
        values: Path | None = None,
        release: str = "rel",
        namespace: str = "ns",
    ) -> str:
        """YAML of all objects, with `--set` for each of `sets`. Raises RenderFailed."""
        given = [option for each in sets for option in ("--set", each)]
        if values:
            given += ["-f", str(values)]
        return self.run("template", release, str(CHART), "-n", namespace, *given)

    def objects(
        self,
        *sets: str,
        values: Path | None = None,
        release: str = "rel",
        namespace: str = "ns",
    ) -> list[Manifest]:
        return _parsed(self.text(*sets, values=values, release=release, namespace=namespace))

    def find(
        self,
        kind: str,
        name: str,
        *sets: str,
        values: Path | None = None,
        release: str = "rel",
    ) -> Manifest | None:
        """The object of this kind and name; None if there is none."""
        found = [
            each
            for each in self.objects(*sets, values=values, release=release)
            if (each["kind"], each["metadata"]["name"]) == (kind, name)
        ]
        assert len(found) < 2, f"{len(found)} objects are {kind} {name}"
        return found[0] if found else None

    def get(
        self,
        kind: str,
        name: str,
        *sets: str,
        values: Path | None = None,
        release: str = "rel",
    ) -> Manifest:
        """The object of this kind and name, which must be there."""
        found = self.find(kind, name, *sets, values=values, release=release)
        assert found is not None, f"no {kind} {name}"
        return found

    def notes(self, *sets: str) -> str:
        """What `helm install` tells, but for the cluster's part in it."""
        given = [option for each in sets for option in ("--set", each)]
        printed = self.run(
            "install", "rel", str(CHART), "-n", "ns", "--dry-run=client", "--hide-secret", *given
        )
        return printed.partition("NOTES:\n")[2]


@functools.cache
def _run(helm: Path, args: tuple[str, ...]) -> str:
    done = subprocess.run([helm, *args], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RenderFailed(done.stderr)
    return done.stdout


@functools.cache
def _parsed(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def pod_specs(objects: list[Manifest]) -> dict[str, Manifest]:
    """Specs of all pods that the objects make, by `kind/name` of their maker."""
    found = {}
    for each in objects:
        spec = each.get("spec", {})
        template = spec if each["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if template and "containers" in template:
            found[f"{each['kind']}/{each['metadata']['name']}"] = template
    return found


def environment(container: Manifest) -> dict[str, Any]:
    """Values of a container's variables; for others where they come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
