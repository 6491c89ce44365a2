"""From the watches' notices to the cache and the queue; and what watches miss, by listing.

A watch that was cut for long begins anew with a list, and never tells of what was deleted in
between. So everything is listed for itself, too: after such a new beginning, and from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from baton.telemetry.logging import event
from baton_operator import kinds, names
from baton_operator.kinds import Kind
from baton_operator.kube.client import ApiError, KubeClient, Manifest
from baton_operator.kube.kopf_watch import Notice
from baton_operator.kube.object_cache import Cache, Key, version_of

log = logging.getLogger(__name__)

# A new beginning tells of many objects at once.
SETTLE_S = 1.0
# After a listing that failed.
RETRY_S = 15.0
PAGE = 500


class Add(Protocol):
    """How a service gets a round."""

    def __call__(self, key: Key, *, urgent: bool = False) -> None: ...


class Intake:
    """Takes notices, in the event loop of the rounds, and repairs the cache."""

    def __init__(
        self, cache: Cache, client: KubeClient, namespace: str | None, add: Add, resync_s: float
    ) -> None:
        self._cache = cache
        self._client = client
        self._namespace = namespace
        self._add = add
        self._resync_s = resync_s
        # Of services: what only the user changes. A status that we wrote needs no round.
        self._wishes: dict[str, tuple[object, ...]] = {}
        self._listed: set[str] = set()
        self._missed_some = asyncio.Event()

    def watch_begins(self) -> None:
        """All watches are new: what they list first is no sign of anything missed."""
        self._listed.clear()

    def take(self, notice: Notice) -> None:
        manifest = notice.manifest
        uid = manifest["metadata"]["uid"]
        match notice.type:
            case "known":
                self._cache.put(notice.kind, manifest)
                return
            case "deleted":
                self._listed.discard(uid)
                key = self._cache.remove(notice.kind, uid, version_of(manifest))
            case "listed":
                if uid in self._listed:
                    self._missed_some.set()
                self._listed.add(uid)
                key = self._cache.put(notice.kind, manifest)
            case "changed":
                key = self._cache.put(notice.kind, manifest)
        if key is not None:
            self._changed(notice, key)

    def _changed(self, notice: Notice, key: Key) -> None:
        if notice.kind != kinds.SERVICE.kind:
            self._add(key)
            return
        meta = notice.manifest["metadata"]
        if notice.type == "deleted":
            self._wishes.pop(meta["uid"], None)
            self._add(key, urgent=True)
            return
        wish = _wish(meta)
        if notice.type == "listed" or self._wishes.get(meta["uid"]) != wish:
            self._wishes[meta["uid"]] = wish
            self._add(key, urgent=True)

    async def keep_repaired(
        self, watched: Callable[[], Collection[Kind]], on_complete: Callable[[], None]
    ) -> None:
        """List everything from time to time and when something was missed; until cancelled.

        `on_complete` is called when all of it was listed.
        """
        while True:
            self._missed_some.clear()
            complete = await self._repair(watched())
            if complete:
                on_complete()
            try:
                async with asyncio.timeout(self._resync_s if complete else RETRY_S):
                    await self._missed_some.wait()
                    await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass

    async def _repair(self, watched: Collection[Kind]) -> bool:
        complete = True
        for kind in watched:
            before = self._cache.versions(kind.kind)
            labels = "" if kind == kinds.SERVICE else names.LABEL_SERVICE
            try:
                found = await self._client.list_all(
                    kind, self._namespace, labels=labels, limit=PAGE
                )
            except ApiError as error:
                log.warning(*event("not_listed", kind=kind.kind, error=str(error)))
                complete = False
                continue
            for manifest in found:
                self._cache.put(kind.kind, manifest)
            gone = self._cache.keep_only(kind.kind, [_uid(each) for each in found], before)
            for key in gone:
                log.info(*event("missed_deletion", kind=kind.kind, service=key.name))
                self._add(key)
        return complete


def _wish(meta: Manifest) -> tuple[object, ...]:
    return (
        meta.get("generation"),
        meta.get("deletionTimestamp"),
        str(meta.get("labels")),
        str(meta.get("annotations")),
    )


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"]["uid"])
