"""Fair share over several gateways: each tells what it has had served, and reads the others.

Every gateway keeps one document in the store, with sums since its start; another charges its own
counters with what was added since it read last. Without the store each gateway is fair by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError
from baton.gateway.queue.fair_share import FairShare, Share
from baton.store.base import Store
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

PREFIX = "fair-share/"
PERIOD_S = 1.0
# A gateway that is silent for so long is gone; so is what was served while the store was away.
TTL_S = 15.0
_MAX_TENANT_CHARS = 256


class ShareExchange:
    """One gateway's side."""

    def __init__(self, store: Store, shares: FairShare, clock: Clock = monotonic) -> None:
        self._store = store
        self._shares = shares
        self._clock = clock
        self._key = PREFIX + secrets.token_hex(8)
        self._told = b""
        self._told_at = -math.inf
        # Key of another gateway's document to its sums when they were read last.
        self._seen: dict[str, Mapping[Share, float]] = {}
        self._read_at = -math.inf
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Exchange every second from now on."""
        self._task = asyncio.create_task(self._run(), name="fair share exchange")

    async def close(self) -> None:
        """Stop. The document leaves the store with its TTL."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.exchange()
            except BatonError:
                # The fleet tells of the store's outage; here nothing is lost that matters.
                continue
            except Exception:
                log.exception(*event("fair_share_exchange_failed"))

    async def exchange(self) -> None:
        """Once: tell, then read. Raises StoreUnavailableError."""
        await self._tell()
        documents = await self._store.list(PREFIX)
        now = self._clock()
        is_late = now - self._read_at > TTL_S
        self._read_at = now
        seen: dict[str, Mapping[Share, float]] = {}
        for key, document in documents.items():
            if key == self._key:
                continue
            sums = seen[key] = parse(document)
            known = None if is_late else self._seen.get(key)
            # Of one that is new here, what came before is nobody's business.
            if known is not None:
                self._take(known, sums)
        self._seen = seen

    async def _tell(self) -> None:
        self._shares.settle()
        document = render(self._shares.served)
        now = self._clock()
        if document == self._told and now - self._told_at < TTL_S / 3:
            return
        await self._store.put(self._key, document, TTL_S)
        self._told, self._told_at = document, now

    def _take(self, known: Mapping[Share, float], sums: Mapping[Share, float]) -> None:
        for share, total in sums.items():
            before = known.get(share, 0.0)
            # A sum that fell was dropped and began anew.
            added = total - before if total >= before else total
            if added > 0:
                self._shares.served_elsewhere(share, added)


def render(served: Mapping[Share, float]) -> bytes:
    """The document: `[[model, class, tenant, cost], ...]`."""
    return orjson.dumps([[*share, round(cost)] for share, cost in served.items()])


def parse(document: bytes) -> dict[Share, float]:
    """What another gateway told; what makes no sense is left out."""
    try:
        rows: Any = orjson.loads(document)
    except orjson.JSONDecodeError:
        return {}
    sums = {}
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [str(model), int(priority), str(tenant), int() | float() as cost] if (
                cost >= 0 and len(tenant) <= _MAX_TENANT_CHARS
            ):
                sums[Share(model, priority, tenant)] = float(cost)
    return sums
