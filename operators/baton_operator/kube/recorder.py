"""Kubernetes events about ModelServices: what `kubectl describe` tells.

One that repeats is counted up instead of written again, as kubectl's own recorder does, and a
service that would emit without end is held to a rate. They are written behind the rounds' back, as
client-go does it: no round waits for what nobody decides by.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from baton.telemetry.logging import event
from baton_operator import kinds, names
from baton_operator.actions import Emit
from baton_operator.decide.text import time_text
from baton_operator.kube.client import ApiError, KubeClient, Manifest
from baton_operator.tasks import cancelled

log = logging.getLogger(__name__)

# The same again within this time counts up (the API server keeps events for an hour).
SAME_FOR_S = 1800.0
MAX_REMEMBERED = 4096
# Of one service: so many at once, then one in so many seconds.
BURST = 25
REFILL_S = 10.0
# Services whose events are written at the same time.
MAX_WRITING = 4
# Of the API: longer notes are refused.
MAX_NOTE = 1024


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    about: Manifest
    said: Emit
    at_s: float


@dataclass(slots=True)
class _Allowance:
    left: float
    at_s: float


class Recorder:
    """Takes events in the rounds' event loop, and writes each service's in their order.

    One that cannot be written is logged and dropped.
    """

    def __init__(self, client: KubeClient, identity: str, now: Callable[[], float]) -> None:
        self._client = client
        self._identity = identity
        self._now = now
        self._written: OrderedDict[tuple[str, Emit], _Written] = OrderedDict()
        self._allowances: dict[str, _Allowance] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._window = asyncio.Semaphore(MAX_WRITING)
        # By service's uid; of more than a burst, which only a stuck API server makes, the newest.
        self._waiting: dict[str, deque[_Waiting]] = {}

    def emit(self, about: Manifest, said: Emit) -> None:
        """`about` is a ModelService's manifest."""
        uid, now = about["metadata"]["uid"], self._now()
        if not self._may(uid, now):
            return
        waiting = self._waiting.setdefault(uid, deque(maxlen=BURST))
        waiting.append(_Waiting(about, said, now))
        if uid not in self._writers:
            self._writers[uid] = asyncio.create_task(self._write_all(uid), name="events")

    async def flush(self) -> None:
        """Until all that was emitted is written or dropped."""
        while self._writers:
            await asyncio.wait([*self._writers.values()])

    async def close(self) -> None:
        """What is not written yet never is."""
        await cancelled(*self._writers.values())
        # Of those that were cancelled before they had begun.
        self._writers.clear()
        self._waiting.clear()

    def forget(self, uid: str) -> None:
        """The service is gone."""
        self._allowances.pop(uid, None)

    async def _write_all(self, uid: str) -> None:
        waiting = self._waiting[uid]
        try:
            while waiting:
                async with self._window:
                    await self._write(uid, waiting.popleft())
        finally:
            del self._writers[uid], self._waiting[uid]

    async def _write(self, uid: str, each: _Waiting) -> None:
        before = self._written.get((uid, each.said))
        try:
            if before is not None and each.at_s - before.at_s < SAME_FOR_S:
                await self._count_up(each.about, each.said, before, each.at_s)
            else:
                await self._create(each.about, each.said, each.at_s)
        except ApiError as error:
            if error.namespace_ends:
                # Nor will the others be taken.
                self._waiting[uid].clear()
                return
            log.warning(*event("event_not_written", reason=each.said.reason, error=str(error)))

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
