"""What is watched, and for how long: from CRDs that are missing to kopf at its wits' end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kubernetes.aio.client import Configuration

from baton.telemetry.logging import event
from baton_operator import kinds
from baton_operator.kinds import Kind
from baton_operator.kube.client import ApiError, KubeClient
from baton_operator.kube.intake import Intake
from baton_operator.kube.kopf_watch import Watcher
from baton_operator.metrics import OperatorMetrics
from baton_operator.tasks import first_of

log = logging.getLogger(__name__)

# Between two looks for CRDs that came or went, and after watching failed.
LOOK_S = 15.0
RESTART_S = 5.0


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
        self._watched: tuple[Kind, ...] = ()
        self.optional: frozenset[str] = frozenset()
        """Kinds of add-ons that the cluster has."""

    async def run(self) -> None:
        while True:
            await self._wait_for_crds()
            self._metrics.watch_starts.inc()
            self._intake.watch_begins()
            watcher = Watcher(
                self._configuration, self._watched, self._namespace, self._intake.take
            )
            try:
                await first_of(watcher.run(), self._kinds_change(), self._keep_repaired())
            except Exception as error:
                log.warning(*event("watch_ended", error=repr(error)))
                await asyncio.sleep(RESTART_S)

    async def _wait_for_crds(self) -> None:
        told = False
        while True:
            try:
                missing = [
                    kind.plural
                    for kind in (kinds.SERVICE, kinds.POOL)
                    if not await self._client.serves(kind)
                ]
                if not missing:
                    await self._look_for_kinds()
                    return
                problem = f"the CRDs are not installed: {', '.join(missing)}"
            except ApiError as error:
                problem = str(error)
            if not told:
                log.warning(*event("waiting_for_crds", reason=problem))
                told = True
            await asyncio.sleep(RESTART_S)

    async def _look_for_kinds(self) -> None:
        optional = [kind for kind in kinds.WATCHED if kind.optional]
        self.optional = frozenset(
            [kind.kind for kind in optional if await self._client.serves(kind)]
        )
        self._watched = tuple(
            kind for kind in kinds.WATCHED if not kind.optional or kind.kind in self.optional
        )

    async def _kinds_change(self) -> None:
        """Returns when optional kinds came or went, or the operator's own are gone."""
        before = self.optional
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                ours = await self._client.serves(kinds.SERVICE)
                await self._look_for_kinds()
            except ApiError as error:
                log.debug(*event("kinds_not_read", error=str(error)))
                continue
            if not ours or self.optional != before:
                log.info(*event("kinds_changed", optional=sorted(self.optional)))
                return

    async def _keep_repaired(self) -> None:
        # The watches list everything themselves when they begin.
        await asyncio.sleep(RESTART_S)
        await self._intake.keep_repaired(lambda: self._watched, self._on_complete)
