"""The operator's questions and wishes, put to a real gateway with real workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from baton_operator.rounds.signals import PodSignals, SignalError
from baton_operator.seen import PodSeen, ServiceSeen, Signals
from baton_operator.types.model_service import ModelServiceSpec
from fakes.deployment import Deployment, deployment
from suites.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

SPEC = {
    "model": {"source": "baton-tiny"},
    "pools": [{"name": "prefill", "role": "prefill"}, {"name": "decode", "role": "decode"}],
    "slo": {"ttftSeconds": 1.0, "quantile": 0.9},
}
SERVICE = ServiceSeen("chat", "ns", "u1", 1, ModelServiceSpec.model_validate(SPEC))
GATEWAYS = [PodSeen("gateway-0", "g0", "gateway", ready=True)]


class OneGateway(PodSignals):
    """The pod is a process of this host."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(lambda service: token, timeout_s=10)
        self._url = url

    def gateway_url(self, service: ServiceSeen, pod: PodSeen) -> str:
        return self._url


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    redis = RedisServer()
    redis.start()
    # Open to a network, as in a pod: what only an operator may do takes the deployment's token.
    flags = ("--engine", "mock", "--mock-step-ms", "5", "--host", "0.0.0.0", "--store", redis.url)
    try:
        with deployment(*flags) as running:
            running.start_workers(prefill=1, decode=1)
            running.wait_ready(2)
            yield running
    finally:
        redis.stop()


@pytest.fixture
async def source(running: Deployment) -> AsyncIterator[OneGateway]:
    token = running.token_file.read_text().strip()
    async with OneGateway(running.url, token) as source:
        yield source


async def seen(source: OneGateway) -> Signals:
    found = await source.signals(SERVICE, GATEWAYS)
    assert found is not None
    return found


async def until_seen(source: OneGateway, condition: Callable[[Signals], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition(await seen(source)):
                return
            await asyncio.sleep(0.05)


async def test_workers_are_listed_with_what_they_do(source: OneGateway) -> None:
    found = await seen(source)
    assert len(found.workers) == 2
    assert found.ttft_s is None, "no request was served yet"


async def test_a_worker_drains_and_is_called_back(source: OneGateway) -> None:
    worker = min((await seen(source)).workers)
    await source.drain(SERVICE, GATEWAYS, worker, within_s=60, reason="pool decode shrinks")
    await until_seen(source, lambda found: found.workers[worker].draining)
    await source.undrain(SERVICE, GATEWAYS, worker)
    await until_seen(source, lambda found: not found.workers[worker].draining)


async def test_the_split_of_traffic_is_set_and_told(source: OneGateway) -> None:
    await source.set_traffic(SERVICE, GATEWAYS, {"r1": 0.9, "r2": 0.1})
    await until_seen(source, lambda found: found.traffic == {"r1": 0.9, "r2": 0.1})
    await source.set_traffic(SERVICE, GATEWAYS, {})
    await until_seen(source, lambda found: not found.traffic)


async def test_another_token_is_no_operators(running: Deployment) -> None:
    async with OneGateway(running.url, "another") as stranger:
        with pytest.raises(SignalError):
            await stranger.set_traffic(SERVICE, GATEWAYS, {"r1": 1.0})
