"""What is watched, and for how long: from CRDs that are missing to kopf at its wits' end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from kubernetes.aio.client import Configuration

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.kinds import Kind
from baton_operator.kube.client import ApiError, KubeClient
from baton_operator.kube.intake import Intake
from baton_operator.kube.kopf_watch import Watcher
from baton_operator.kube.rights import unwatchable
from baton_operator.metrics import OperatorMetrics
from baton_operator.tasks import first_of

log = logging.getLogger(__name__)

# Between two looks for CRDs that came or went, and after watching failed.
LOOK_S = 15.0
RESTART_S = 5.0
# Looks of which one is for rights, too; each is while one is missing.
RIGHTS_LOOKS = 4


class Watching:
    """Watches what the cluster serves, and begins anew when that changes; `run` until cancelled.

    `on_complete` is called whenever everything was listed.
    """

    def __init__(
        self,
        client: KubeClient,
        configuration: Configuration,
        namespace: str | None,
        intake: Intake,
        metrics: OperatorMetrics,
        on_complete: Callable[[], None],
    ) -> None:
        self._client = client
        self._configuration = configuration
        self._namespace = namespace
        self._intake = intake
        self._metrics = metrics
        self._on_complete = on_complete
        self._served: tuple[Kind, ...] = ()
        self._forbidden: frozenset[Kind] = frozenset()
        self.unwatched: frozenset[str] = frozenset()
        """Kinds that the operator may not watch, and so knows nothing of; and those that it may
        again, until all of them were listed."""

    @property
    def optional(self) -> frozenset[str]:
        """Kinds of add-ons that the cluster has."""
        return frozenset(kind.kind for kind in self._served if kind.optional)

    @property
    def _watched(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in self._served if kind not in self._forbidden)

    async def run(self) -> None:
        while True:
            await self._wait_until_possible()
            self._metrics.watch_starts.inc()
            self._intake.watch_begins()
            watched = self._watched
            watcher = Watcher(self._configuration, watched, self._namespace, self._intake.take)
            try:
                await first_of(
                    watcher.run(), self._kinds_change(watched), self._keep_repaired(watched)
                )
            except Exception as error:
                log.warning(*event("watch_ended", error=repr(error)))
                await asyncio.sleep(RESTART_S)

    async def _wait_until_possible(self) -> None:
        told = False
        while True:
            try:
                missing = await self._missing_crds()
                if missing:
                    problem = f"the CRDs are not installed: {', '.join(missing)}"
                else:
                    await self._look_for_kinds()
                    await self._look_for_rights()
                    if kinds.SERVICE not in self._forbidden:
                        return
                    problem = f"{kinds.SERVICE.plural} may not be listed and watched"
            except ApiError as error:
                problem = str(error)
            if not told:
                log.warning(*event("waiting_to_watch", reason=problem))
                told = True
            await asyncio.sleep(RESTART_S)

    async def _missing_crds(self) -> list[str]:
        ours = (kinds.SERVICE, kinds.POOL)
        return [kind.plural for kind in ours if not await self._client.serves(kind)]

    async def _look_for_kinds(self) -> None:
        self._served = tuple(
            [kind for kind in kinds.WATCHED if not kind.optional or await self._client.serves(kind)]
        )

    async def _look_for_rights(self) -> None:
        before = self._forbidden
        self._forbidden = await unwatchable(self._client, self._namespace, self._served)
        self.unwatched |= {kind.kind for kind in self._forbidden}
        if self._forbidden != before:
            lacking = sorted(kind.plural for kind in self._forbidden)
            told = log.warning if lacking else log.info
            told(*event("rights_missing" if lacking else "rights_complete", kinds=lacking))

    async def _kinds_change(self, watched: tuple[Kind, ...]) -> None:
        """Returns when what can be watched is another, or the operator's own kinds are gone."""
        for number in itertools.count(1):
            await asyncio.sleep(LOOK_S)
            try:
                missing = await self._missing_crds()
                await self._look_for_kinds()
                if self._forbidden or number % RIGHTS_LOOKS == 0:
                    await self._look_for_rights()
            except ApiError as error:
                log.debug(*event("kinds_not_read", error=str(error)))
                continue
            if missing or self._watched != watched:
                now = sorted(kind.plural for kind in self._watched)
                log.info(*event("kinds_changed", watched=now, missing=missing))
                return

    async def _keep_repaired(self, watched: tuple[Kind, ...]) -> None:
        def complete() -> None:
            self.unwatched = frozenset(kind.kind for kind in self._served if kind not in watched)
            self._on_complete()

        # The watches list everything themselves when they begin.
        await asyncio.sleep(RESTART_S)
        await self._intake.keep_repaired(lambda: watched, complete)
