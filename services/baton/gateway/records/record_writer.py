"""Writes records into the store, where every gateway of the deployment finds them.

A task of its own writes a few at a time, whatever the requests do meanwhile; what does not fit is
counted and dropped, ordinary calls before slow and failed ones. A store that is away costs nothing
but those.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from typing import Any

import orjson

from baton.core.errors import BatonError
from baton.core.settings import RecordSettings
from baton.gateway.records import explain
from baton.gateway.records.call_record import CallRecord
from baton.store.base import Store
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PREFIX = "requests/"
# From what clients call a call to its own id: apart, so that no client's id hides a record.
NAME_PREFIX = "request-names/"
# Between two writes: often enough that each is short.
FLUSH_S = 0.25
# Seconds' worth of records that may wait.
_MAX_WAIT_S = 4


class RecordWriter:
    """`offer` from the event loop; `start` and `close` around it."""

    def __init__(
        self, store: Store, settings: RecordSettings, metrics: Metrics, flush_s: float = FLUSH_S
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._flush_s = flush_s
        self._share = max(1, round(settings.max_stored_per_s * flush_s))
        self._max_waiting = max(4, settings.max_stored_per_s * _MAX_WAIT_S)
        self._ordinary: deque[CallRecord] = deque()
        self._special: deque[CallRecord] = deque()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._settings.max_stored_per_s:
            self._task = asyncio.create_task(self._run(), name="record writer")

    async def close(self) -> None:
        """Write what waits, unless the store is slow about it, or away."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(self._flush_s):
                await self._flush(self._max_waiting)
        except (TimeoutError, BatonError):
            self._metrics.dropped_records.inc(len(self._special) + len(self._ordinary))
        except Exception:
            log.exception(*event("records_not_written"))

    def offer(self, record: CallRecord) -> None:
        """Have it written, or count it as dropped."""
        if self._task is None:
            return
        is_special = record.is_slow or record.is_failed
        if len(self._special) + len(self._ordinary) >= self._max_waiting:
            self._metrics.dropped_records.inc()
            if not (is_special and self._ordinary):
                return
            self._ordinary.popleft()
        (self._special if is_special else self._ordinary).append(record)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await self._flush(self._share)
            except BatonError:
                # The fleet tells of the outage. What waits is tried again.
                pass
            except Exception:
                log.exception(*event("records_not_written"))

    async def _flush(self, most: int) -> None:
        """Write up to so many, special ones first. Those that cannot be written stay."""
        special = min(most, len(self._special))
        ordinary = min(most - special, len(self._ordinary))
        if not special + ordinary:
            return
        taken = [self._special.popleft() for _ in range(special)]
        taken += [self._ordinary.popleft() for _ in range(ordinary)]
        try:
            documents: dict[str, bytes] = {}
            for record in taken:
                documents |= _entries(record)
            await self._store.put_documents(documents, self._settings.ttl_s)
        except BatonError:
            self._special.extendleft(reversed(taken[:special]))
            self._ordinary.extendleft(reversed(taken[special:]))
            raise
        except Exception:
            self._metrics.dropped_records.inc(len(taken))
            raise


def _entries(record: CallRecord) -> dict[str, bytes]:
    """What finds a call by its own id, and by its client's."""
    document = zlib.compress(orjson.dumps(explain.document(record)), 1)
    return {
        PREFIX + record.call_id: document,
        NAME_PREFIX + record.request_id: record.call_id.encode(),
    }


async def read_record(store: Store, name: str) -> dict[str, Any] | None:
    """What some gateway wrote of a call, by any of its ids. Raises StoreUnavailableError."""
    value = await store.get_document(PREFIX + name)
    if value is None and (call_id := await store.get_document(NAME_PREFIX + name)) is not None:
        value = await store.get_document(PREFIX + call_id.decode())
    call, _, number = name.rpartition("-")
    if value is None and call and number.isdigit():
        # One of several prompts.
        value = await store.get_document(PREFIX + call)
    if value is None:
        return None
    found: dict[str, Any] = orjson.loads(zlib.decompress(value))
    return found
