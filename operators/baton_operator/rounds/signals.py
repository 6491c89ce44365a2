"""What gateways and starting workers say, and what gateways are asked to do, over HTTP.

`Signals` come from every gateway pod of a service: each knows all workers, and the latency of the
requests that it served itself. One that does not answer in time is left out; when none does, the
answer is None, which is not the same as zero requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from baton.telemetry.logging import event
from baton_operator import names
from baton_operator.seen import PodSeen, Progress, ServiceSeen, Signals, WorkerSignal

log = logging.getLogger(__name__)


class Load(BaseModel):
    """What a worker reported last; nothing before its first report."""

    num_running: int = 0
    num_waiting: int = 0


class Row(BaseModel):
    """A worker, as a gateway lists it."""

    id: str
    state: str
    load: Load = Load()
    draining: bool = False


class Latency(BaseModel):
    """Measured quantiles of one gateway; None: too few requests."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    requests: int = 0


class Status(BaseModel):
    """GET /v1/baton/status. A newer gateway may say more."""

    workers: list[Row] = []
    slo: Latency = Latency()
    traffic: dict[str, float] = {}


class SignalError(Exception):
    """No gateway did what was asked; it may the next time."""


class SignalSource(Protocol):
    """Where signals come from; the operator's rounds know no more of gateways than this."""

    async def signals(
        self, service: ServiceSeen, gateways: Sequence[PodSeen]
    ) -> Signals | None: ...

    async def progress(self, pod: PodSeen) -> Progress | None: ...

    async def drain(
        self,
        service: ServiceSeen,
        gateways: Sequence[PodSeen],
        worker: str,
        within_s: float,
        reason: str,
    ) -> None: ...

    async def undrain(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], worker: str
    ) -> None: ...

    async def set_traffic(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], weights: Mapping[str, float]
    ) -> None: ...


class PodSignals:
    """Asks the pods themselves at their addresses. The token is the service's own."""

    def __init__(self, token_of: Callable[[ServiceSeen], str], timeout_s: float) -> None:
        self._token_of = token_of
        # A gateway's certificate is for the name that clients know, not for a pod's address.
        self._http = httpx.AsyncClient(timeout=timeout_s, verify=False, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    def gateway_url(self, service: ServiceSeen, pod: PodSeen) -> str:
        scheme = "http" if service.spec.gateway.tls is None else "https"
        return f"{scheme}://{_host(pod)}:{names.GATEWAY_HTTP_PORT}"

    def worker_url(self, pod: PodSeen) -> str:
        return f"http://{_host(pod)}:{names.WORKER_HEALTH_PORT}"

    async def signals(self, service: ServiceSeen, gateways: Sequence[PodSeen]) -> Signals | None:
        slo = service.spec.slo
        path = "/v1/baton/status" + ("" if slo is None else f"?quantile={slo.quantile:g}")
        answers = await asyncio.gather(*(self._ask(service, pod, "GET", path) for pod in gateways))
        told = [status for answer in answers if (status := _status(answer)) is not None]
        return combined(told) if told else None

    async def progress(self, pod: PodSeen) -> Progress | None:
        try:
            answer = (await self._http.get(f"{self.worker_url(pod)}/progress")).json()
            return Progress(
                str(answer["stage"]), int(answer.get("bytes") or 0), answer.get("total_bytes")
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def drain(
        self,
        service: ServiceSeen,
        gateways: Sequence[PodSeen],
        worker: str,
        within_s: float,
        reason: str,
    ) -> None:
        body = {"within_s": within_s, "reason": reason}
        await self._ask_all(service, gateways, "POST", _of_worker(worker, "drain"), body)

    async def undrain(self, service: ServiceSeen, gateways: Sequence[PodSeen], worker: str) -> None:
        await self._ask_all(service, gateways, "POST", _of_worker(worker, "undrain"), {})

    async def set_traffic(
        self, service: ServiceSeen, gateways: Sequence[PodSeen], weights: Mapping[str, float]
    ) -> None:
        body = {"weights": dict(weights)}
        await self._ask_all(service, gateways, "PUT", "/v1/baton/traffic", body)

    async def _ask_all(
        self,
        service: ServiceSeen,
        gateways: Sequence[PodSeen],
        method: str,
        path: str,
        body: Mapping[str, Any],
    ) -> None:
        """Every gateway; one that did it is enough. Raises SignalError when none did."""
        answers = await asyncio.gather(
            *(self._ask(service, pod, method, path, body) for pod in gateways)
        )
        if all(answer is None for answer in answers):
            raise SignalError(f"none of {len(gateways)} gateways took {method} {path}")

    async def _ask(
        self,
        service: ServiceSeen,
        pod: PodSeen,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
    ) -> object | None:
        """What one gateway answered; None when it did not, or refused."""
        headers = {"Authorization": f"Bearer {self._token_of(service)}"}
        try:
            answer = await self._http.request(
                method, self.gateway_url(service, pod) + path, json=body, headers=headers
            )
            answer.raise_for_status()
            parsed: object = answer.json() if answer.content else {}
        except (httpx.HTTPError, ValueError) as error:
            log.debug(*event("gateway_silent", pod=pod.name, path=path, error=repr(error)))
            return None
        return {} if parsed is None else parsed


def combined(answers: Sequence[Status]) -> Signals:
    """One view of several gateways' statuses.

    A worker drains when any gateway says so, and its load is the highest that any has heard of.
    Quantiles cannot be merged exactly: each counts by its gateway's requests.
    """
    workers: dict[str, WorkerSignal] = {}
    for answer in answers:
        for row in answer.workers:
            found = _worker(row)
            known = workers.get(row.id)
            workers[row.id] = found if known is None else _merged(known, found)
    return Signals(
        workers=workers,
        ttft_s=_weighted((each.slo.ttft_s, each.slo.requests) for each in answers),
        tpot_s=_weighted((each.slo.tpot_s, each.slo.requests) for each in answers),
        traffic=next((each.traffic for each in answers if each.traffic), {}),
    )


def _status(answer: object | None) -> Status | None:
    """None: no answer, or none of a gateway."""
    try:
        return None if answer is None else Status.model_validate(answer)
    except ValidationError as error:
        log.warning(*event("gateway_not_understood", error=str(error)))
        return None


def _worker(row: Row) -> WorkerSignal:
    return WorkerSignal(
        draining=row.draining or row.state == "draining",
        num_running=row.load.num_running,
        num_waiting=row.load.num_waiting,
    )


def _merged(one: WorkerSignal, other: WorkerSignal) -> WorkerSignal:
    busier = max(one, other, key=lambda each: each.num_requests)
    return WorkerSignal(
        draining=one.draining or other.draining,
        num_running=busier.num_running,
        num_waiting=busier.num_waiting,
    )


def _weighted(measured: Iterable[tuple[float | None, int]]) -> float | None:
    counted = [(value, max(1, requests)) for value, requests in measured if value is not None]
    requests = sum(weight for _, weight in counted)
    return sum(value * weight for value, weight in counted) / requests if requests else None


def _of_worker(worker: str, verb: str) -> str:
    return f"/v1/baton/workers/{quote(worker, safe='')}/{verb}"


def _host(pod: PodSeen) -> str:
    ip = pod.ip or ""
    return f"[{ip}]" if ":" in ip else ip
