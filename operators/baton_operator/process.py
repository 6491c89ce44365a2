"""One operator process: wait for the Lease, watch and act while it is held, give it back.

Three ends. Told to stop: rounds in progress end, the Lease is given back, exit status 0. The Lease
lost: exit at once with status 1, and the restarted process is a standby again. Anything else that
happens - the API server away, CRDs missing, kopf at its wits' end - is waited out inside. So an
API server that is away for an hour costs one exit, after `lease_deadline_s`; the standby that
follows waits for as long as it takes, alive and ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence

from kubernetes.aio.client import Configuration
from prometheus_client import CollectorRegistry

from baton.telemetry.logging import event
from baton_operator.actions import Action
from baton_operator.health import Health, serving
from baton_operator.kube.client import KubeClient
from baton_operator.kube.kopf_watch import quiet_kopf
from baton_operator.kube.lease import LeaseHolder
from baton_operator.leader import Leader
from baton_operator.metrics import OperatorMetrics
from baton_operator.resources.context import Installation
from baton_operator.resources.internal_secret import derived
from baton_operator.rounds.signals import PodSignals, SignalSource
from baton_operator.seen import Seen, ServiceSeen
from baton_operator.settings import OperatorSettings
from baton_operator.tasks import done_unless

log = logging.getLogger(__name__)


async def run(
    settings: OperatorSettings,
    configuration: Configuration,
    decide: Callable[[Seen, Installation], Sequence[Action]],
    signals: SignalSource | None = None,
) -> int:
    """Until SIGTERM, SIGINT or the loss of the Lease. Returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    quiet_kopf()
    metrics, health = OperatorMetrics(CollectorRegistry()), Health()
    async with contextlib.AsyncExitStack() as stack:
        client = KubeClient(configuration, settings.api_timeout_s, metrics.note_call)
        stack.push_async_callback(client.close)
        if signals is None:
            signals = await stack.enter_async_context(pod_signals(settings))
        ports = await stack.enter_async_context(
            serving(health, metrics, settings.metrics_port, settings.health_port)
        )
        log.info(
            *event(
                "operator_started",
                namespace=settings.namespace or "all",
                identity=settings.identity,
                metrics_port=ports.metrics,
                health_port=ports.health,
            )
        )
        lease = LeaseHolder(client, settings)
        if not await done_unless(stop, lease.acquire()):
            return 0
        metrics.leader.set(1)
        health.leading = True
        leader = Leader(settings, configuration, client, lease, decide, signals, metrics, health)
        return await leader.lead(stop)


@contextlib.asynccontextmanager
async def pod_signals(settings: OperatorSettings) -> AsyncIterator[PodSignals]:
    """The gateways' and workers' own answers, with each service's token."""
    key = settings.key.get_secret_value().encode()

    def token_of(service: ServiceSeen) -> str:
        return derived(key, service.uid, "token")

    async with PodSignals(token_of, settings.signals_timeout_s) as source:
        yield source
