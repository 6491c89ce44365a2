"""The gateway's side of the cluster process: starts it, replaces it, stops it.

A cluster process that dies takes its workers with it, and another is started. One that lost Ray's
head keeps its workers; another is started beside it, and when that serves the old workers drain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from baton.cluster.child import Child
from baton.cluster.pools import targets
from baton.cluster.protocol import ClusterConfig, Event
from baton.cluster.ray_env import make_temp_dir
from baton.core.errors import BatonError
from baton.core.settings import PoolSettings

log = logging.getLogger(__name__)

# Streams on workers of a lost Ray may run on for this long once the new ones serve.
RETIRE_GRACE_S = 300.0
# Beyond the grace, for a process that does not end by itself.
RETIRE_MARGIN_S = 10.0
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0


class Supervisor:
    """`start()` returns when all workers serve; from then on they are kept alive until `stop()`.

    `on_event` hears every event of every cluster process, `on_log` every line that these and their
    workers write to standard error.
    """

    def __init__(
        self,
        config: ClusterConfig,
        on_event: Callable[[Event], None],
        on_log: Callable[[str], None],
        retire_grace_s: float = RETIRE_GRACE_S,
        module: str = "baton.cluster.main",
    ) -> None:
        self._config = config
        self._on_event = on_event
        self._on_log = on_log
        self._retire_grace_s = retire_grace_s
        self._module = module
        self._current: Child | None = None
        self._children: set[Child] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start Ray and the workers. Raises the error of what could not start; nothing stays."""
        self._current = await self._launch(0)
        self._go(self._keep(self._current))

    async def stop(self, *, force: bool = False) -> None:
        """End all workers and Ray; `force` skips their goodbyes. Leaves no process behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop(force=force) for child in list(self._children)))

    def resize(self, pools: PoolSettings) -> None:
        """Change how many workers there should be, now and after every restart."""
        settings = {**self._config.settings, "pools": pools.model_dump(mode="json")}
        self._config = self._config.model_copy(update={"settings": settings})
        if self._current is not None:
            self._current.send({"set": targets(pools)})

    def stop_worker(self, worker_id: str, grace_s: float) -> None:
        """Drain one worker, for at most `grace_s`, and stop it; its pool shrinks by one for now."""
        if self._current is not None:
            self._current.send({"stop_worker": worker_id, "grace_s": grace_s})

    # --- one process after the other ---

    async def _launch(self, generation: int) -> Child:
        """A cluster process whose workers all serve. Raises when it fails, and then it is gone."""
        config = self._config.model_copy(
            update={"generation": generation, "temp_dir": make_temp_dir()}
        )
        child = await Child.spawn(config, self._on_event, self._on_log, self._module)
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        try:
            await child.serve()
        except BaseException:
            await child.stop(force=True)
            raise
        return child

    async def _keep(self, child: Child) -> None:
        """Replace the running process whenever it ends or loses Ray."""
        generation = 0
        while True:
            lost = asyncio.create_task(child.ray_lost.wait())
            try:
                await asyncio.wait([lost, child.ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
            log.warning(
                "Ray's head is gone; starting Ray anew beside the workers that live on"
                if not child.ended.done()
                else "the cluster process ended; starting it again"
            )
            backoff_s = FIRST_BACKOFF_S
            while True:
                generation += 1
                try:
                    fresh = await self._launch(generation)
                    break
                except BatonError as error:
                    log.error("the workers did not start, next try in %.0f s: %s", backoff_s, error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)
            self._go(self._retire(child))
            child = self._current = fresh

    async def _retire(self, child: Child) -> None:
        """Let a process without Ray's head drain its workers, then end it."""
        child.send({"retire": self._retire_grace_s})
        await asyncio.wait([child.ended], timeout=self._retire_grace_s + RETIRE_MARGIN_S)
        await child.stop(force=True)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
