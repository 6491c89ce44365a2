"""Kubernetes events about ModelServices: what `kubectl describe` tells.

One that repeats is counted up instead of written again, as kubectl's own recorder does, and a
service that would emit without end is held to a rate.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from baton.telemetry.logging import event
from baton_operator import kinds, names
from baton_operator.actions import Emit
from baton_operator.decide.text import time_text
from baton_operator.kube.client import ApiError, KubeClient, Manifest

log = logging.getLogger(__name__)

# The same again within this time counts up (the API server keeps events for an hour).
SAME_FOR_S = 1800.0
MAX_REMEMBERED = 4096
# Of one service: so many at once, then one in so many seconds.
BURST = 25
REFILL_S = 10.0
# Of the API: longer notes are refused.
MAX_NOTE = 1024


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at_s: float


@dataclass(slots=True)
class _Allowance:
    left: float
    at_s: float


class Recorder:
    """Writes events; one that cannot be written is logged and dropped.

    Raises ApiError in a namespace that is being deleted, where the whole round is in vain.
    """

    def __init__(self, client: KubeClient, identity: str, now: Callable[[], float]) -> None:
        self._client = client
        self._identity = identity
        self._now = now
        self._written: OrderedDict[tuple[str, Emit], _Written] = OrderedDict()
        self._allowances: dict[str, _Allowance] = {}

    async def emit(self, about: Manifest, said: Emit) -> None:
        """`about` is a ModelService's manifest."""
        uid, now = about["metadata"]["uid"], self._now()
        if not self._may(uid, now):
            return
        before = self._written.get((uid, said))
        try:
            if before is not None and now - before.at_s < SAME_FOR_S:
                await self._count_up(about, said, before, now)
            else:
                await self._create(about, said, now)
        except ApiError as error:
            if error.namespace_ends:
                raise
            log.warning(*event("event_not_written", reason=said.reason, error=str(error)))

    def forget(self, uid: str) -> None:
        """The service is gone."""
        self._allowances.pop(uid, None)

    async def _count_up(self, about: Manifest, said: Emit, before: _Written, now: float) -> None:
        patch: Manifest = {"count": before.count + 1, "lastTimestamp": time_text(now)}
        try:
            await self._client.merge(
                kinds.EVENT, about["metadata"]["namespace"], before.name, patch
            )
        except ApiError as error:
            if not error.not_found:
                raise
            await self._create(about, said, now)
        else:
            before.count += 1
            before.at_s = now

    async def _create(self, about: Manifest, said: Emit, now: float) -> None:
        meta = about["metadata"]
        at = time_text(now)
        written = _Written(_name(meta, said, now), 1, now)
        body: Manifest = {
            "apiVersion": kinds.EVENT.api_version,
            "kind": kinds.EVENT.kind,
            "metadata": {"name": written.name, "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.SERVICE_KIND,
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
                "resourceVersion": meta.get("resourceVersion", ""),
            },
            "type": said.type,
            "reason": said.reason,
            "message": said.message[:MAX_NOTE],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        await self._client.create(kinds.EVENT, meta["namespace"], body)
        self._written[(meta["uid"], said)] = written
        self._written.move_to_end((meta["uid"], said))
        if len(self._written) > MAX_REMEMBERED:
            self._written.popitem(last=False)

    def _may(self, uid: str, now: float) -> bool:
        allowance = self._allowances.setdefault(uid, _Allowance(BURST, now))
        refilled = allowance.left + (now - allowance.at_s) / REFILL_S
        allowance.left, allowance.at_s = min(float(BURST), refilled), now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True


def _name(meta: Manifest, said: Emit, now: float) -> str:
    """Unique, as the recorder of client-go makes it: object and time; and what is said."""
    digest = sha256(f"{meta['uid']}/{said}/{now!r}".encode()).hexdigest()[:16]
    return f"{meta['name']}.{digest}"
