"""An operator's weights of revisions, in the store: every gateway follows them.

They outlive gateways, and an outage of the store changes nothing of what is known. What is made of
them is `router.traffic`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baton.router.pool import Pool
from baton.store.base import Store
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

KEY = "traffic"

Name = Annotated[str, Field(max_length=128)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Weights = Annotated[dict[Name, Weight], Field(max_length=64)]


class _Document(BaseModel):
    """What the store has; fields of newer versions are left alone."""

    model_config = ConfigDict(extra="ignore")

    weights: Weights = {}


class Traffic:
    """`changed` is called when the split may have."""

    def __init__(self, store: Store, pool: Pool, changed: Callable[[], None]) -> None:
        self.weights: Mapping[str, float] = {}
        self._store = store
        self._pool = pool
        self._changed = changed
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the store."""
        self._task = asyncio.create_task(self._watch(), name="traffic")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def set(self, weights: Mapping[str, float], ttl_s: float | None) -> None:
        """For all gateways, until they are set again or `ttl_s` is over. None: capacity decides.

        Raises StoreUnavailableError; nothing has changed then.
        """
        if weights:
            document = _Document(weights=dict(weights))
            await self._store.put(KEY, document.model_dump_json().encode(), ttl_s)
        else:
            await self._store.delete(KEY)
        self._take(weights)

    def shares(self, model: str) -> dict[str, float]:
        """Each revision's share of new requests for a model, by its name."""
        return self._pool.split(model).shares

    async def _watch(self) -> None:
        async for change in self._store.watch(KEY):
            if change.key != KEY:
                continue
            if change.kind != "put":
                self._take({})
                continue
            try:
                self._take(_Document.model_validate_json(change.value).weights)
            except ValidationError:
                # Not ours to mend; what was known stays.
                log.exception(*event("bad_traffic_weights", key=change.key))

    def _take(self, weights: Mapping[str, float]) -> None:
        if weights == self.weights:
            return
        self.weights = weights
        self._pool.set_weights(weights)
        log.warning(*event("traffic_weights", weights=dict(weights)))
        self._changed()
