"""The operator as its own process, with gateways that are asked at one address of this host.

kwok's pods have no processes behind their addresses. BATON_TEST_GATEWAY_URL says where one answers
for them; everything else is `python -m baton_operator`. With BATON_TEST_DIE_AFTER the process dies
as by SIGKILL right after so many writes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

from baton.telemetry.logging import setup
from baton_operator import kinds
from baton_operator.decide.reconcile import reconcile
from baton_operator.kinds import Kind
from baton_operator.kube import intake, watching
from baton_operator.kube.client import KubeClient, login
from baton_operator.process import run
from baton_operator.resources.internal_secret import derived
from baton_operator.rounds.signals import PodSignals
from baton_operator.seen import PodSeen, ServiceSeen
from baton_operator.settings import OperatorSettings, load

# As the settings that tests give: shorter, so that tests wait for events and not for clocks.
watching.LOOK_S, watching.RESTART_S, intake.RETRY_S = 3.0, 1.0, 3.0


class HostSignals(PodSignals):
    """Every gateway of a service is URL/<uid of the service>, every worker URL/pods/<name>."""

    def __init__(self, settings: OperatorSettings, url: str) -> None:
        key = settings.key.get_secret_value().encode()
        super().__init__(
            lambda service: derived(key, service.uid, "token"), settings.signals_timeout_s
        )
        self._url = url

    def gateway_url(self, service: ServiceSeen, pod: PodSeen) -> str:
        return f"{self._url}/{service.uid}"

    def worker_url(self, pod: PodSeen) -> str:
        return f"{self._url}/pods/{pod.name}"


def die_after(num_writes: int) -> None:
    """Between two actions: the API server has done the last one, the operator does not know."""
    left = num_writes
    call = KubeClient._call

    async def counted(self: KubeClient, verb: str, kind: Kind, *args: Any, **named: Any) -> Any:
        nonlocal left
        answer = await call(self, verb, kind, *args, **named)
        if verb in ("create", "patch", "delete") and kind != kinds.LEASE:
            left -= 1
            if left <= 0:
                os._exit(137)
        return answer

    KubeClient._call = counted  # type: ignore[method-assign]


async def operate() -> int:
    settings = load()
    if num_writes := int(os.environ.get("BATON_TEST_DIE_AFTER", "0")):
        die_after(num_writes)
    setup(settings.log_level, "text")
    logging.getLogger("baton_operator").setLevel(settings.log_level.upper())
    async with HostSignals(settings, os.environ["BATON_TEST_GATEWAY_URL"]) as signals:
        return await run(settings, await login(), reconcile, signals)


if __name__ == "__main__":
    sys.exit(asyncio.run(operate()))
