"""A gateway that is told to leave: unready at once, closed later, its streams finished."""

from __future__ import annotations

import asyncio

import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.core.request import FinishReason
from baton.gateway.app import create_app
from baton.gateway.http.server import HttpServer
from baton.gateway.rpc.server import RpcServer
from baton.telemetry import rpc
from baton.telemetry.addresses import listening_socket
from fakes.gateway import asgi_client, events, make_context, text_tokens
from fakes.generator import FakeGenerator

HELLO = text_tokens("hello")[0]
BODY = {"model": "tiny", "prompt": "hi"}


async def test_a_leaving_gateway_is_unready_and_serves() -> None:
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello")))
    async with asgi_client(context) as client:
        assert (await client.get("/ready")).status_code == 200
        context.is_leaving = True
        response = await client.get("/ready")
        assert response.status_code == 503
        assert response.json()["reason"] == "the gateway is leaving"
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200


async def test_clients_of_a_leaving_gateway_connect_anew() -> None:
    context = make_context(FakeGenerator(lambda *_: text_tokens("hello")))
    server = HttpServer(create_app(context), listening_socket("127.0.0.1", 0))
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        for stream in (True, False):
            context.is_leaving = False
            kept = await client.post("/v1/completions", json={**BODY, "stream": stream})
            assert "connection" not in kept.headers
            context.is_leaving = True
            last = await client.post("/v1/completions", json={**BODY, "stream": stream})
            assert last.headers["connection"] == "close" and "hello" in last.text
    await server.stop(context.answers, 0.0)


async def test_grpc_health_follows() -> None:
    context = make_context(FakeGenerator())
    server = RpcServer(context, "127.0.0.1", 0)
    await server.start()
    channel = rpc.channel(f"127.0.0.1:{server.port}", "")
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    context.is_leaving = True
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    await channel.close(None)
    await server.stop(0)


async def test_streams_end_whole_within_the_drain_and_with_an_error_after_it() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    server = HttpServer(create_app(context), listening_socket("127.0.0.1", 0))
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        posts = [
            asyncio.create_task(client.post("/v1/completions", json={**BODY, "stream": True}))
            for _ in range(2)
        ]
        await generator.submitted(2)
        for ticket in generator.tickets:
            ticket.feed(HELLO)
        stop = asyncio.create_task(server.stop(context.answers, 2.0))
        await asyncio.sleep(0.01)
        generator.tickets[0].feed(HELLO, FinishReason.LENGTH)
        found = [events(response.text) for response in await asyncio.gather(*posts)]
        found.sort(key=lambda document: "error" in document[-1])
        await stop
    assert found[0][-1] == "[DONE]"
    error = found[1][-1]["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == "unavailable"
