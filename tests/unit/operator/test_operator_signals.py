"""What several gateways say becomes one answer, and silence is not zero."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from baton_operator.rounds.signals import PodSignals, SignalError, Status, combined
from baton_operator.seen import PodSeen, ServiceSeen, WorkerSignal
from baton_operator.types.model_service import ModelServiceSpec
from baton_operator.types.traffic import SloSpec

SERVICE = ServiceSeen(
    name="chat",
    namespace="ns",
    uid="u1",
    generation=1,
    spec=ModelServiceSpec.model_validate(
        {"model": {"source": "example/tiny"}, "pools": [{"name": "all", "role": "any"}]}
    ),
)


class Gateway:
    """One that answers as told, and remembers what it was asked."""

    def __init__(self, status: dict[str, Any] | None = None, code: int = 200) -> None:
        self.status, self.code = status or {}, code
        self.asked: list[tuple[str, str, str | None, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        token = request.headers.get("Authorization")
        self.asked.append((request.method, request.path_qs, token, body))
        return web.json_response(self.status, status=self.code)


class OnThisHost(PodSignals):
    """Pods are processes of this host here; their port stands where the address would."""

    def gateway_url(self, service: ServiceSeen, pod: PodSeen) -> str:
        return f"http://127.0.0.1:{pod.ip}"

    def worker_url(self, pod: PodSeen) -> str:
        return f"http://127.0.0.1:{pod.ip}"


@contextlib.asynccontextmanager
async def serving(*gateways: Gateway) -> AsyncIterator[list[PodSeen]]:
    async with contextlib.AsyncExitStack() as stack:
        pods = []
        for number, gateway in enumerate(gateways):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", gateway.answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = str(runner.addresses[0][1])
            pods.append(PodSeen(f"gw-{number}", f"g{number}", "gateway", ip=port, ready=True))
        yield pods


@pytest.fixture
async def source() -> AsyncIterator[OnThisHost]:
    async with OnThisHost(lambda service: f"token-of-{service.uid}", timeout_s=2) as source:
        yield source


def row(worker: str, running: int = 0, **more: Any) -> dict[str, Any]:
    load = {"num_running": running, "num_waiting": 0}
    return {"id": worker, "state": "ready", "load": load, **more}


async def test_gateways_are_asked_with_the_services_token(source: OnThisHost) -> None:
    gateway = Gateway({"workers": [row("w1", 2, revision="r1")]})
    async with serving(gateway) as pods:
        found = await source.signals(SERVICE, pods)
    assert found is not None
    assert found.workers == {"w1": WorkerSignal(num_running=2)}
    assert gateway.asked == [("GET", "/v1/baton/status", "Bearer token-of-u1", None)]


async def test_the_quantile_of_the_objectives_is_asked_for(source: OnThisHost) -> None:
    spec = SERVICE.spec.model_copy(update={"slo": SloSpec(ttft_seconds=1.0, quantile=0.9)})
    gateway = Gateway()
    async with serving(gateway) as pods:
        await source.signals(replace(SERVICE, spec=spec), pods)
    assert gateway.asked[0][1] == "/v1/baton/status?quantile=0.9"


async def test_a_silent_gateway_is_left_out(source: OnThisHost) -> None:
    async with serving(Gateway({"workers": [row("w1", 0)]}), Gateway(code=503)) as pods:
        found = await source.signals(SERVICE, pods)
    assert found is not None and set(found.workers) == {"w1"}


async def test_nobody_answering_is_not_zero_workers(source: OnThisHost) -> None:
    async with serving(Gateway(code=500)) as pods:
        assert await source.signals(SERVICE, pods) is None
    assert await source.signals(SERVICE, pods) is None, "gone altogether"
    assert await source.signals(SERVICE, []) is None


async def test_nonsense_is_silence(source: OnThisHost) -> None:
    async with serving(Gateway({"workers": [{"no": "id"}]})) as pods:
        assert await source.signals(SERVICE, pods) is None


async def test_a_drain_is_asked_of_every_gateway_and_one_is_enough(source: OnThisHost) -> None:
    good, bad = Gateway(), Gateway(code=404)
    async with serving(good, bad) as pods:
        await source.drain(SERVICE, pods, "chat/1", within_s=60, reason="scale down")
        await source.undrain(SERVICE, pods, "chat/1")
        await source.set_traffic(SERVICE, pods, {"r1": 0.9, "r2": 0.1})
    path = "/v1/baton/workers/chat%2F1"
    assert [(method, at, body) for method, at, _, body in good.asked] == [
        ("POST", f"{path}/drain", {"within_s": 60, "reason": "scale down"}),
        ("POST", f"{path}/undrain", {}),
        ("PUT", "/v1/baton/traffic", {"weights": {"r1": 0.9, "r2": 0.1}}),
    ]
    assert len(bad.asked) == 3


async def test_a_drain_that_no_gateway_took_is_an_error(source: OnThisHost) -> None:
    async with serving(Gateway(code=503)) as pods:
        with pytest.raises(SignalError):
            await source.drain(SERVICE, pods, "w1", 60, "why")
    with pytest.raises(SignalError):
        await source.undrain(SERVICE, [], "w1")


async def test_progress_of_a_starting_worker(source: OnThisHost) -> None:
    telling = Gateway({"stage": "downloading", "bytes": 5, "total_bytes": 10})
    async with serving(telling, Gateway(code=500), Gateway({"bytes": 1})) as pods:
        found = [await source.progress(pod) for pod in pods]
    assert found[0] is not None and found[0].num_bytes == 5 and found[0].total_bytes == 10
    assert found[1:] == [None, None]


def statuses(*answers: dict[str, Any]) -> list[Status]:
    return [Status.model_validate(each) for each in answers]


def test_a_worker_drains_when_any_gateway_says_so_and_is_as_busy_as_the_latest_report() -> None:
    found = combined(
        statuses(
            {"workers": [row("w1", 3), row("w2", 1)]},
            {"workers": [row("w1", 5, draining=True)]},
        ),
    )
    assert found.workers["w1"] == WorkerSignal(draining=True, num_running=5)
    assert set(found.workers) == {"w1", "w2"}


def test_latency_counts_by_requests() -> None:
    found = combined(
        statuses(
            {"slo": {"ttft_s": 1.0, "tpot_s": None, "requests": 30}},
            {"slo": {"ttft_s": 2.0, "tpot_s": None, "requests": 10}},
            {"slo": {"ttft_s": None, "tpot_s": None, "requests": 0}},
        ),
    )
    assert found.ttft_s == pytest.approx(1.25) and found.tpot_s is None
