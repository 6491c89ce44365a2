"""What the watches have told of the cluster: services, their children and their pods.

Kept by uid, so that an object and its successor of the same name are never mixed up, and looked up
by the service that the labels name. Only the event loop of the rounds touches it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from baton.telemetry.logging import event
from baton_operator import kinds, names
from baton_operator.kube.client import Manifest
from baton_operator.seen import PodSeen, observed_pod

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A ModelService, by name."""

    namespace: str
    name: str


class _Home(NamedTuple):
    """Whose an object is, and the newest version of it that is known."""

    key: Key
    version: int


# Uids of objects that left, which are remembered: an answer to an earlier call may come after the
# event of the deletion, and must not bring the object back.
MAX_TOMBSTONES = 4096


class Cache:
    """The newest known state of everything watched."""

    def __init__(self) -> None:
        self._services: dict[Key, Manifest] = {}
        self._children: defaultdict[Key, dict[str, Manifest]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, PodSeen]] = defaultdict(dict)
        # Of each kind, who an object belongs to: a service itself is its own.
        self._homes: defaultdict[str, dict[str, _Home]] = defaultdict(dict)
        # By uid the version at which an object left, the oldest burial first. Only what is newer
        # is let in: to a watch with a label selector, one that loses the label is deleted, and may
        # get the label back.
        self._buried: dict[str, int] = {}
        self._unread: set[str] = set()

    def put(self, kind: str, manifest: Manifest) -> Key | None:
        """An object as it was at its resourceVersion, unless a newer one is known.

        Returns whose it is; None when it carries no service's label. What cannot be read changes
        nothing and is told of once: anybody may make a pod with our labels.
        """
        uid = str(manifest["metadata"]["uid"])
        try:
            return self._put(kind, uid, manifest)
        except Exception as error:
            if uid not in self._unread:
                if len(self._unread) >= MAX_TOMBSTONES:
                    self._unread.clear()
                self._unread.add(uid)
                name = manifest["metadata"].get("name")
                log.warning(*event("object_not_read", kind=kind, name=name, error=repr(error)))
            return None

    def _put(self, kind: str, uid: str, manifest: Manifest) -> Key | None:
        version, key = version_of(manifest), home(kind, manifest)
        held = observed_pod(manifest) if kind == kinds.POD.kind else _trimmed(manifest)
        before = self._homes[kind].get(uid)
        if before is not None and version < before.version:
            return before.key
        if version <= self._buried.get(uid, -1):
            return None
        if before is not None and before.key != key:
            self._drop(kind, uid, before.key)
        if key is None:
            self._bury(uid, version)
            return None if before is None else before.key
        self._buried.pop(uid, None)
        self._homes[kind][uid] = _Home(key, version)
        if isinstance(held, PodSeen):
            self._pods[key][uid] = held
        elif kind == kinds.SERVICE.kind:
            known = self._services.get(key)
            if known is None or version_of(known) <= version:
                self._services[key] = held
        else:
            self._children[key][uid] = {**held, "kind": kind}
        return key

    def remove(self, kind: str, uid: str, version: int) -> Key | None:
        """It left at this version: deleted, or without the label by which it was watched.

        Returns whose it was, None when it was not known. One that is known newer is back already.
        """
        known = self._homes[kind].get(uid)
        if known is not None and known.version > version:
            return known.key
        self._bury(uid, version)
        self._unread.discard(uid)
        if known is None:
            return None
        self._drop(kind, uid, known.key)
        return known.key

    def versions(self, kind: str) -> dict[str, int]:
        """Of all known objects of a kind, by uid."""
        return {uid: at.version for uid, at in self._homes[kind].items()}

    def keep_only(
        self, kind: str, uids: Collection[str], known_before: Mapping[str, int]
    ) -> set[Key]:
        """Remove what was known before a listing, is not in it, and was not told of since.

        Returns whose that was.
        """
        touched = set()
        for uid in known_before.keys() - set(uids):
            known = self._homes[kind].get(uid)
            if known is not None and known.version == known_before[uid]:
                self.remove(kind, uid, known.version)
                touched.add(known.key)
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
            if at not in found or version_of(found[at]) < version_of(manifest):
                found[at] = manifest
        return found

    def pods(self, key: Key) -> tuple[PodSeen, ...]:
        """By name."""
        return tuple(sorted(self._pods.get(key, {}).values(), key=lambda pod: pod.name))

    def _drop(self, kind: str, uid: str, key: Key) -> None:
        self._homes[kind].pop(uid, None)
        if kind == kinds.SERVICE.kind:
            known = self._services.get(key)
            if known is not None and known["metadata"]["uid"] == uid:
                del self._services[key]
            return
        shelf: dict[Key, dict[str, PodSeen]] | dict[Key, dict[str, Manifest]]
        shelf = self._pods if kind == kinds.POD.kind else self._children
        held = shelf.get(key)
        if held is not None:
            held.pop(uid, None)
            if not held:
                del shelf[key]

    def _bury(self, uid: str, version: int) -> None:
        self._buried[uid] = max(version, self._buried.pop(uid, version))
        if len(self._buried) > MAX_TOMBSTONES:
            del self._buried[next(iter(self._buried))]


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


def version_of(manifest: Manifest) -> int:
    """The resourceVersion, which orders the states of the objects of a kind.

    Promised since Kubernetes 1.35 (KEP-5504); API servers before it, back to the first with etcd
    3, gave the revision of etcd, which does the same.
    """
    return int(manifest["metadata"].get("resourceVersion") or 0)
