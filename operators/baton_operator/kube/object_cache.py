"""What the watches have told of the cluster: services, their children and their pods.

Kept by uid, so that an object and its successor of the same name are never mixed up, and looked up
by the service that the labels name. Only the event loop of the rounds touches it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from baton_operator import kinds, names
from baton_operator.kube.client import Manifest
from baton_operator.seen import PodSeen, observed_pod


class Key(NamedTuple):
    """A ModelService, by name."""

    namespace: str
    name: str


class _Pod(NamedTuple):
    version: int
    seen: PodSeen | None


# Uids of deleted objects that are remembered: an answer to an earlier call may come after the
# event of the deletion, and must not bring the object back.
MAX_TOMBSTONES = 4096


class Cache:
    """The newest known state of everything watched."""

    def __init__(self) -> None:
        self._services: dict[Key, Manifest] = {}
        self._children: defaultdict[Key, dict[str, Manifest]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, _Pod]] = defaultdict(dict)
        # Of each kind, who an object belongs to: a service itself is its own.
        self._homes: defaultdict[str, dict[str, Key]] = defaultdict(dict)
        self._buried: set[str] = set()
        self._burials: deque[str] = deque()

    def put(self, kind: str, manifest: Manifest) -> Key | None:
        """An object as it was at its resourceVersion, unless a newer one is known.

        Returns whose it is; None when it carries no service's label.
        """
        meta = manifest["metadata"]
        uid = meta["uid"]
        key = home(kind, manifest)
        before = self._homes[kind].get(uid)
        if before is not None and before != key:
            self._drop(kind, uid, before)
        if key is None or uid in self._buried:
            return before
        version = _version(manifest)
        if kind == kinds.POD.kind:
            pods = self._pods[key]
            if uid not in pods or pods[uid].version <= version:
                pods[uid] = _Pod(version, observed_pod(manifest))
        elif kind == kinds.SERVICE.kind:
            known = self._services.get(key)
            if known is None or known["metadata"]["uid"] != uid or _version(known) <= version:
                self._services[key] = _trimmed(manifest)
        else:
            children = self._children[key]
            if uid not in children or _version(children[uid]) <= version:
                children[uid] = {**_trimmed(manifest), "kind": kind}
        self._homes[kind][uid] = key
        return key

    def remove(self, kind: str, uid: str) -> Key | None:
        """It is deleted for good. Returns whose it was, None when it was not known."""
        self._bury(uid)
        key = self._homes[kind].pop(uid, None)
        if key is not None:
            self._drop(kind, uid, key)
        return key

    def uids(self, kind: str) -> frozenset[str]:
        """Of all known objects of a kind."""
        return frozenset(self._homes[kind])

    def keep_only(
        self, kind: str, uids: Collection[str], known_before: Collection[str]
    ) -> set[Key]:
        """Remove what was known before a listing and is not in it. Returns whose that was."""
        touched = set()
        for uid in set(known_before).difference(uids):
            key = self.remove(kind, uid)
            if key is not None:
                touched.add(key)
        return touched

    def service(self, key: Key) -> Manifest | None:
        return self._services.get(key)

    def services(self) -> Iterator[tuple[Key, Manifest]]:
        yield from self._services.items()

    @property
    def num_services(self) -> int:
        return len(self._services)

    def children(self, key: Key) -> dict[tuple[str, str], Manifest]:
        """By kind and name; of two with one name the newer one, the other is on its way out."""
        found: dict[tuple[str, str], Manifest] = {}
        for manifest in self._children.get(key, {}).values():
            at = (manifest["kind"], manifest["metadata"]["name"])
            if at not in found or _version(found[at]) < _version(manifest):
                found[at] = manifest
        return found

    def pods(self, key: Key) -> tuple[PodSeen, ...]:
        """By name; of a group of pods its leader only."""
        pods = (pod.seen for pod in self._pods.get(key, {}).values())
        return tuple(sorted((pod for pod in pods if pod is not None), key=lambda pod: pod.name))

    def _drop(self, kind: str, uid: str, key: Key) -> None:
        self._homes[kind].pop(uid, None)
        if kind == kinds.SERVICE.kind:
            known = self._services.get(key)
            if known is not None and known["metadata"]["uid"] == uid:
                del self._services[key]
            return
        shelf: dict[Key, dict[str, _Pod]] | dict[Key, dict[str, Manifest]]
        shelf = self._pods if kind == kinds.POD.kind else self._children
        held = shelf.get(key)
        if held is not None:
            held.pop(uid, None)
            if not held:
                del shelf[key]

    def _bury(self, uid: str) -> None:
        if uid in self._buried:
            return
        self._buried.add(uid)
        self._burials.append(uid)
        if len(self._burials) > MAX_TOMBSTONES:
            self._buried.discard(self._burials.popleft())


def home(kind: str, manifest: Manifest) -> Key | None:
    """The service that an object belongs to by its label; a service belongs to itself."""
    meta = manifest["metadata"]
    if kind == kinds.SERVICE.kind:
        return Key(meta["namespace"], meta["name"])
    service = (meta.get("labels") or {}).get(names.LABEL_SERVICE)
    return Key(meta["namespace"], service) if service else None


def _trimmed(manifest: Manifest) -> Manifest:
    """Without managedFields, which are larger than the rest and which nothing here reads."""
    meta = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    return {**manifest, "metadata": meta}


def _version(manifest: Manifest) -> int:
    """The resourceVersion, which orders the states of one object (KEP-5504)."""
    return int(manifest["metadata"].get("resourceVersion") or 0)
