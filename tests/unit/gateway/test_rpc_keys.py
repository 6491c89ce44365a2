"""API keys and limits on gRPC."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from baton.core.api_key import Scope
from baton.core.errors import InvalidKeyError
from baton.gateway.context import Context
from baton.gateway.keys.admin import revoke_key
from baton.gateway.rpc.server import RpcServer
from baton.v1 import inference_pb2, inference_pb2_grpc, kserve_pb2, kserve_pb2_grpc
from fakes.gateway import text_tokens
from fakes.generator import FakeGenerator
from fakes.keyed_gateway import caller, keyed_context, make_key
from fakes.until import until
from suites.embedded_backend import EmbeddedBackend

ASK = inference_pb2.GenerateRequest(model="tiny", text="hi")


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: text_tokens("hello world"))


@pytest.fixture
async def context(generator: FakeGenerator) -> AsyncIterator[Context]:
    backend = EmbeddedBackend()
    await backend.start()
    async with keyed_context(backend.open(), generator) as context:
        yield context
    await backend.close()


@pytest.fixture
async def channel(context: Context) -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer(context, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop(0)


def stub(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.InferenceServiceStub(channel)  # type: ignore[no-untyped-call]


async def generate(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> list[Any]:
    return [message async for message in stub(channel).Generate(ASK, metadata=metadata)]


async def refusal(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> tuple[Any, Any]:
    """The status code and the error's reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(channel, *metadata)
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return caught.value.code(), info.reason


async def test_a_key_in_the_metadata_lets_in_and_names_the_tenant(
    context: Context, channel: grpc.aio.Channel, generator: FakeGenerator
) -> None:
    key, _ = await make_key(context)
    for metadata in (("authorization", f"Bearer {key}"), ("x-api-key", key)):
        assert await generate(channel, metadata)
        await stub(channel).ListModels(inference_pb2.ListModelsRequest(), metadata=(metadata,))
    assert [request.tenant for request in generator.requests] == ["acme", "acme"]
    assert generator.requests[0].tenant_salt


async def test_others_are_refused_with_a_reason(
    context: Context, channel: grpc.aio.Channel, generator: FakeGenerator
) -> None:
    reader, _ = await make_key(context, Scope.READ)
    unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key")
    assert await refusal(channel) == unauthenticated
    assert await refusal(channel, ("authorization", "Bearer wrong")) == unauthenticated
    assert await refusal(channel, ("x-api-key", reader)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "insufficient_permissions",
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await stub(channel).ListModels(inference_pb2.ListModelsRequest())
    assert generator.requests == []


def kserve(channel: grpc.aio.Channel) -> Any:
    return kserve_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


def infer_request() -> kserve_pb2.ModelInferRequest:
    request = kserve_pb2.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"hi")
    return request


async def infer(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> list[Any]:
    return [await kserve(channel).ModelInfer(infer_request(), metadata=metadata)]


async def infer_streamed(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> list[Any]:
    call = kserve(channel).ModelStreamInfer(iter([infer_request()]), metadata=metadata)
    return [message async for message in call]


def num_refusals(context: Context, code: str) -> float:
    return context.metrics.key_refusals.labels(code).value


@pytest.mark.parametrize("ask", [generate, infer, infer_streamed])
async def test_every_way_to_generate_needs_a_key_and_is_billed_to_its_tenant(
    context: Context, channel: grpc.aio.Channel, generator: FakeGenerator, ask: Any
) -> None:
    for metadata in ((), (("x-api-key", "wrong"),)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, *metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert num_refusals(context, "invalid_api_key") == 2
    assert generator.requests == []
    keys = {tenant: (await make_key(context, tenant=tenant))[0] for tenant in ("acme", "umbrella")}
    for key in keys.values():
        assert await ask(channel, ("x-api-key", key))
    assert [request.tenant for request in generator.requests] == list(keys)


async def test_calls_at_once_are_each_billed_to_their_own_tenant(
    context: Context, channel: grpc.aio.Channel, generator: FakeGenerator
) -> None:
    keys = [(await make_key(context, tenant=f"tenant-{i}"))[0] for i in range(8)]
    await asyncio.gather(*(generate(channel, ("x-api-key", key)) for key in keys for _ in range(4)))
    tenants = Counter(request.tenant for request in generator.requests)
    assert tenants == {f"tenant-{i}": 4 for i in range(8)}


async def test_a_stream_that_outlives_its_key_is_refused_request_by_request(
    context: Context, channel: grpc.aio.Channel, generator: FakeGenerator
) -> None:
    key, record = await make_key(context)
    call = kserve(channel).ModelStreamInfer(metadata=(("x-api-key", key),))
    await call.write(infer_request())
    message = await call.read()
    while "triton_final_response" not in message.infer_response.parameters:
        message = await call.read()
    assert context.access is not None
    await revoke_key(context.access.store, record.id, "me")
    await until(lambda: _is_refused(context, key))
    await call.write(infer_request())
    assert "revoked" in (await call.read()).error_message
    await call.done_writing()
    assert len(generator.requests) == 1


def _is_refused(context: Context, key: str) -> bool:
    try:
        caller(context, key)
    except InvalidKeyError:
        return True
    return False


async def test_health_needs_no_key(channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_limits_hold_and_say_when_to_come_back(
    context: Context, channel: grpc.aio.Channel
) -> None:
    key, _ = await make_key(context, rpm=1, concurrent=1)
    await generate(channel, ("x-api-key", key))
    code, reason = await refusal(channel, ("x-api-key", key))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limit_exceeded")
    assert context.access is not None
    assert not context.access.limits._held
