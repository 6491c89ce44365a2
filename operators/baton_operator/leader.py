"""What runs while the Lease is held: watching, rounds, Redis users; and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from kubernetes.aio.client import Configuration

from baton.telemetry.logging import event
from baton_operator.actions import Action
from baton_operator.health import Health
from baton_operator.kube.client import KubeClient
from baton_operator.kube.intake import Intake
from baton_operator.kube.lease import LeaseHolder, LeaseLostError
from baton_operator.kube.object_cache import Cache
from baton_operator.kube.recorder import Recorder
from baton_operator.kube.watching import Watching
from baton_operator.metrics import OperatorMetrics
from baton_operator.resources.context import Installation
from baton_operator.rounds.controller import Controller, Pace
from baton_operator.rounds.observe import Observer
from baton_operator.rounds.perform import Performer
from baton_operator.rounds.queue import WorkQueue
from baton_operator.rounds.redis_users import RedisUsers
from baton_operator.rounds.signals import SignalSource
from baton_operator.seen import Seen
from baton_operator.settings import OperatorSettings
from baton_operator.tasks import cancelled

log = logging.getLogger(__name__)

CHECK_USERS_S = 5.0


class Leader:
    """What runs while the Lease is held."""

    def __init__(
        self,
        settings: OperatorSettings,
        configuration: Configuration,
        client: KubeClient,
        lease: LeaseHolder,
        decide: Callable[[Seen, Installation], Sequence[Action]],
        signals: SignalSource,
        metrics: OperatorMetrics,
        health: Health,
    ) -> None:
        self._settings = settings
        self._lease = lease
        self._metrics = metrics
        self._health = health
        self._key = settings.key.get_secret_value().encode()
        self._cache = Cache()
        self._recorder = Recorder(client, settings.identity, time.time)
        self._users: RedisUsers | None = None
        if settings.redis_url is not None:
            self._users = RedisUsers(
                settings.redis_url.get_secret_value(), self._key, CHECK_USERS_S
            )
        observer = Observer(
            self._cache,
            client,
            signals,
            lambda: self._watching.optional,
            lambda: self._watching.unwatched,
            time.time,
        )
        performer = Performer(
            client, self._cache, signals, self._recorder, metrics, lambda: lease.held
        )
        self._controller = Controller(
            self._cache,
            WorkQueue(settings.min_interval_s, settings.backoff_s, settings.max_backoff_s),
            observer,
            lambda seen: decide(seen, self._installation),
            performer,
            metrics,
            Pace(settings.tick_s, settings.resync_s),
            on_round=self._on_round,
            on_gone=self._on_gone,
        )
        intake = Intake(
            self._cache, client, settings.namespace, self._controller.add, settings.resync_s
        )
        self._watching = Watching(
            client, configuration, settings.namespace, intake, metrics, self._all_known
        )
        metrics.services.set_function(lambda: self._cache.num_services)
        health.oldest_round_s = self._controller.oldest_round_s
        health.unwatched = lambda: self._watching.unwatched

    @property
    def _installation(self) -> Installation:
        url = self._settings.redis_url
        address = None if url is None else urlsplit(url.get_secret_value())
        return Installation(
            key=self._key,
            image=self._settings.image,
            redis_address=address and f"{address.hostname}:{address.port or 6379}",
            monitors=self._settings.monitors,
        )

    async def lead(self, stop: asyncio.Event) -> int:
        """Until told to stop (0) or the Lease is lost (1)."""
        hands = [
            asyncio.create_task(self._controller.work(), name=f"rounds-{number}")
            for number in range(self._settings.concurrency)
        ]
        others = [
            asyncio.create_task(self._watching.run(), name="watch"),
            asyncio.create_task(self._lease.hold(), name="lease"),
        ]
        if self._users is not None:
            others.append(asyncio.create_task(self._users.run(), name="redis-users"))
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait(
                {stopped, *hands, *others}, return_when=asyncio.FIRST_COMPLETED
            )
            failed = [task for task in done if task is not stopped]
            if not failed:
                await self._finish_rounds(hands)
                return 0
            error = failed[0].exception()
            if not isinstance(error, LeaseLostError):
                log.error(*event("operator_failed", part=failed[0].get_name(), error=repr(error)))
            else:
                log.error(*event("lease_lost", reason=str(error)))
            return 1
        finally:
            self._health.stopping = True
            self._metrics.leader.set(0)
            await cancelled(stopped, *hands, *others)
            await self._recorder.close()
            await self._lease.release()

    async def _finish_rounds(self, hands: Sequence[asyncio.Task[None]]) -> None:
        self._health.stopping = True
        self._controller.stop()
        try:
            async with asyncio.timeout(self._settings.shutdown_timeout_s):
                await asyncio.wait(hands)
                await self._recorder.flush()
        except TimeoutError:
            pass

    def _all_known(self) -> None:
        if self._users is not None:
            for _, manifest in self._cache.services():
                self._users.want(manifest["metadata"]["uid"])
            self._users.all_known()

    def _on_round(self, seen: Seen) -> None:
        if self._users is None:
            return
        if seen.service.spec.store.bundled and not seen.service.deleting:
            self._users.want(seen.service.uid)
        else:
            self._users.drop(seen.service.uid)

    def _on_gone(self, uid: str) -> None:
        self._recorder.forget(uid)
        if self._users is not None:
            self._users.drop(uid)
