"""An API server's memory: objects, generations, and server-side apply as far as it matters here.

A field that was applied and is left out the next time disappears, unless somebody else has written
it since; defaults come back then, as the real one does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

Manifest = dict[str, Any]
Key = tuple[str, str]
Path = tuple[str, ...]


class RefusedError(Exception):
    """What the API server would not do."""


class KubeStore:
    """Objects of one namespace by kind and name."""

    def __init__(self) -> None:
        self.objects: dict[Key, Manifest] = {}
        self._applied: dict[Key, dict[Path, Any]] = {}
        self._version = 0

    def of_kind(self, kind: str) -> list[Manifest]:
        return [each for (its, _), each in sorted(self.objects.items()) if its == kind]

    def create(self, manifest: Mapping[str, Any]) -> Manifest:
        made = deepcopy(dict(manifest))
        made["metadata"] = {**made["metadata"], "generation": 1}
        _default(made)
        self._bump(made)
        made["metadata"]["uid"] = f"uid-{self._version}"
        self.objects[_key(made)] = made
        return made

    def apply(self, manifest: Mapping[str, Any]) -> None:
        wanted = deepcopy(dict(manifest))
        key, leaves = _key(wanted), dict(_leaves(wanted))
        found = self.objects.get(key)
        if found is None:
            self.create(wanted)
        else:
            before = deepcopy(found)
            for path, value in self._applied.get(key, {}).items():
                if path not in leaves and _get(found, path) == value:
                    _remove(found, path)
            for path, value in leaves.items():
                _set(found, path, value)
            self._changed(before, found)
        self._applied[key] = leaves

    def merge(self, key: Key, patch: Mapping[str, Any]) -> None:
        """A JSON merge patch, by whatever manager: what it writes is no longer the applier's."""
        found = self.objects.get(key)
        if found is None:
            raise RefusedError(f"{key} is not there")
        before = deepcopy(found)
        for path, value in _leaves(patch):
            if value is None:
                _remove(found, path)
            else:
                _set(found, path, value)
            self._applied.get(key, {}).pop(path, None)
        self._changed(before, found)

    def put_status(self, key: Key, status: Mapping[str, Any]) -> None:
        found = self.objects.get(key)
        if found is None:
            raise RefusedError(f"{key} is not there")
        found["status"] = deepcopy(dict(status))

    def delete(self, key: Key) -> None:
        self.objects.pop(key, None)
        self._applied.pop(key, None)

    def _changed(self, before: Manifest, found: Manifest) -> None:
        _default(found)
        if before.get("spec") != found.get("spec"):
            found["metadata"]["generation"] += 1
        if before.get("immutable") and before.get("data") != found.get("data"):
            self.objects[_key(found)] = before
            raise RefusedError("the data of an immutable ConfigMap cannot change")
        self._bump(found)

    def _bump(self, manifest: Manifest) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)


def _default(manifest: Manifest) -> None:
    if manifest["kind"] in ("Deployment", "LeaderWorkerSet", "WorkerPool"):
        manifest["spec"].setdefault("replicas", 1)


def _key(manifest: Mapping[str, Any]) -> Key:
    return manifest["kind"], manifest["metadata"]["name"]


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Lists are one value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _get(tree: Mapping[str, Any], path: Path) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def _set(tree: Manifest, path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = deepcopy(value)


def _remove(tree: Manifest, path: Path) -> None:
    for name in path[:-1]:
        if name not in tree:
            return
        tree = tree[name]
    tree.pop(path[-1], None)
