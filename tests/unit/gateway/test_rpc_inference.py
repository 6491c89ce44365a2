"""The gRPC API: all kinds of prompts, rich errors, deadline, cancel, health, reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from baton.core.errors import ConfigError, OverloadedError, UnavailableError, WorkerLostError
from baton.core.request import FinishReason
from baton.core.settings import GatewaySettings
from baton.gateway.context import Context
from baton.gateway.rpc.inference import SERVICE
from baton.gateway.rpc.server import RpcServer
from baton.v1 import common_pb2, inference_pb2, inference_pb2_grpc
from fakes.gateway import make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = "hello world, the race goes on 🎉"
TOKENS = text_tokens(TEXT)

GenerateRequest = inference_pb2.GenerateRequest
GenerateParams = inference_pb2.GenerateParams


def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: TOKENS, cached_tokens=1)


@asynccontextmanager
async def served(context: Context) -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer(context, "127.0.0.1", 0)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield channel
    finally:
        await server.stop(0)


def stub(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.InferenceServiceStub(channel)  # type: ignore[no-untyped-call]


async def generate(fake: FakeGenerator, **fields: Any) -> list[inference_pb2.GenerateResponse]:
    async with served(make_context(fake)) as channel:
        return [m async for m in stub(channel).Generate(GenerateRequest(model="tiny", **fields))]


async def refused(fake: FakeGenerator, **fields: Any) -> tuple[grpc.aio.AioRpcError, Any]:
    """The error, and its ErrorInfo."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(fake, **fields)
    return caught.value, error_info(caught.value)


def error_info(error: grpc.aio.AioRpcError) -> Any:
    metadata: Any = error.trailing_metadata() or ()
    trailers = dict(metadata)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info) and info.domain == "baton.dev"
    return info


def text_of(messages: list[inference_pb2.GenerateResponse], index: int = 0) -> str:
    return "".join(m.delta.text for m in messages if m.delta.index == index)


async def test_text_in_tokens_text_and_usage_out() -> None:
    fake = generator()
    *deltas, last = await generate(fake, text="hello", params=GenerateParams(max_tokens=100))
    assert text_of(deltas) == TEXT
    assert [t for m in deltas for t in m.delta.token_ids] == [*TOKENS, 1]
    assert deltas[-1].delta.finish_reason == common_pb2.FINISH_REASON_STOP
    assert last.usage.prompt_tokens == 2
    assert last.usage.completion_tokens == len(TOKENS) + 1
    assert last.usage.cached_tokens == 1
    assert len({m.request_id for m in [*deltas, last]}) == 1
    assert fake.requests[0].prompt == (0, *text_tokens("hello"))


async def test_chat_and_token_ids() -> None:
    fake = generator()
    message = inference_pb2.ChatMessage(role="user", content="hi")
    await generate(fake, chat=inference_pb2.ChatPrompt(messages=[message]))
    await generate(fake, token_ids=inference_pb2.TokenPrompt(ids=[5, 6]))
    assert fake.requests[0].prompt[:2] == (0, 2)
    assert fake.requests[0].sampling.max_tokens == 512 - len(fake.requests[0].prompt)
    assert fake.requests[1].prompt == (5, 6)
    assert fake.requests[1].sampling.max_tokens == 16


async def test_parameters_reach_the_request() -> None:
    fake = generator()
    params = GenerateParams(
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        min_p=0.25,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias={7: 2.0},
        max_tokens=9,
        min_tokens=2,
        stop_token_ids=[4],
        ignore_eos=True,
        top_logprobs=2,
    )
    messages = await generate(
        fake,
        text="hello",
        params=params,
        n=2,
        seed=2**64 - 1,
        request_id="mine",
        cache_ttl_ms=2500,
        cache_salt="tenant",
    )
    (request,) = fake.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 3)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (9, 2, True)
    assert dict(sampling.logit_bias) == {7: 2.0} and sampling.stop_token_ids == (4,)
    assert sampling.logprobs and sampling.top_logprobs == 2
    assert request.seed == 2**64 - 1 and request.num_choices == 2
    assert {m.request_id for m in messages} == {"mine"}
    assert request.request_id != "mine"
    assert (request.cache_ttl_s, request.tenant_salt) == (2.5, "tenant")
    deltas = [m.delta for m in messages if m.HasField("delta")]
    assert sum(len(d.logprobs) for d in deltas) == sum(len(d.token_ids) for d in deltas) == 18
    assert deltas[0].logprobs[0].top_token_ids[0] == TOKENS[0]


async def test_stop_strings_and_choices() -> None:
    messages = await generate(
        generator(), text="x", n=2, stop=["ce go"], params=GenerateParams(max_tokens=100)
    )
    assert text_of(messages[:-1], 0) == text_of(messages[:-1], 1) == "hello world, the ra"


async def test_tokens_of_one_turn_share_a_message() -> None:
    fake = FakeGenerator(lambda *_: TOKENS, per_turn=4)
    messages = await generate(fake, text="x", params=GenerateParams(max_tokens=100))
    assert len(messages) < len(TOKENS) / 2
    assert text_of(messages[:-1]) == TEXT


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"text": ""}, "text"),
        ({"chat": inference_pb2.ChatPrompt()}, "chat"),
        (
            {"chat": inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="bot")])},
            "chat.messages[0].role",
        ),
        ({"token_ids": inference_pb2.TokenPrompt(ids=[10**6])}, "prompt"),
        ({"text": "x", "n": 129}, "n"),
        ({"text": "x", "stop": [""]}, "stop"),
        ({"text": "x", "params": GenerateParams(temperature=9.0)}, "temperature"),
        ({"text": "x", "params": GenerateParams(temperature=float("nan"))}, "temperature"),
        ({"text": "x", "params": GenerateParams(logit_bias={1: float("nan")})}, "logit_bias"),
        ({"text": "x", "params": GenerateParams(top_logprobs=21)}, "top_logprobs"),
        ({"text": "x", "params": GenerateParams(max_tokens=0)}, "max_tokens"),
        ({"text": "x", "request_id": "a b"}, "request_id"),
        ({"text": "x", "cache_ttl_ms": 2**32 - 1}, "cache_ttl"),
        ({"text": "x", "cache_salt": "s" * 257}, "cache_salt"),
    ],
)
async def test_bad_requests_name_the_parameter(fields: dict[str, Any], param: str) -> None:
    error, info = await refused(generator(), **fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.metadata["param"] == param


async def test_errors_have_their_status_and_reason() -> None:
    fake = generator()
    error, info = await refused(fake, text="x" * 5000)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "context_length_exceeded"
    fake.refusal = OverloadedError("full")
    error, info = await refused(fake, text="x")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info.reason, info.metadata["retryable"]) == ("overloaded", "true")
    fake.refusal = None
    fake.failure = WorkerLostError("died")
    error, info = await refused(fake, text="x")
    assert error.code() is grpc.StatusCode.UNAVAILABLE and info.reason == "worker_lost"


async def test_unknown_model_is_not_found() -> None:
    async with served(make_context(generator())) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).Generate(GenerateRequest(model="gpt-4", text="x")).read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(caught.value).reason == "model_not_found"


async def test_a_bug_is_internal_and_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context(generator())

    async def broken(*_: object) -> list[int]:
        raise RuntimeError("secret")

    monkeypatch.setattr(context.models["tiny"].tokenizer, "encode_texts", broken)
    async with served(context) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).Generate(GenerateRequest(model="tiny", text="x")).read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")


async def test_cancel_reaches_the_ticket() -> None:
    fake = FakeGenerator()
    context = make_context(fake)
    async with served(context) as channel:
        call = stub(channel).Generate(GenerateRequest(model="tiny", text="x"))
        ticket = await fake.submitted()
        ticket.feed(TOKENS[0])
        assert (await call.read()).delta.text == "hello"
        call.cancel()
        await asyncio.wait_for(ticket.stopped.wait(), 60)
        await context.answers.drain(5.0, UnavailableError("late"))
        assert len(context.answers) == 0


async def test_deadline_goes_with_the_request_and_ends_it() -> None:
    fake = FakeGenerator()
    context = make_context(fake, GatewaySettings(request_timeout_s=1000.0))
    loop = asyncio.get_running_loop()
    async with served(context) as channel:
        call = stub(channel).Generate(GenerateRequest(model="tiny", text="x"), timeout=0.3)
        ticket = await fake.submitted()
        assert ticket.request.deadline < loop.time() + 1.0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(ticket.stopped.wait(), 60)


async def test_call_without_deadline_takes_the_settings() -> None:
    fake = generator()
    settings = GatewaySettings(request_timeout_s=50.0)
    before = asyncio.get_running_loop().time()
    async with served(make_context(fake, settings)) as channel:
        await stub(channel).Generate(GenerateRequest(model="tiny", text="x")).read()
    assert fake.requests[0].deadline >= before + 50.0


async def test_stopping_gateway_ends_calls_with_unavailable() -> None:
    fake = FakeGenerator()
    context = make_context(fake)
    async with served(context) as channel:
        call = stub(channel).Generate(GenerateRequest(model="tiny", text="x"))
        await fake.submitted()
        await context.answers.drain(0.0, UnavailableError("shutting down"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_message_larger_than_the_limit_is_refused() -> None:
    settings = GatewaySettings(max_body_bytes=64 * 1024)
    async with served(make_context(generator(), settings)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = GenerateRequest(model="tiny", text="x" * 100_000)
            await stub(channel).Generate(request).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(caught.value).reason == "payload_too_large"
    assert "the limit is 65536" in (caught.value.details() or "")


async def test_a_message_far_above_the_limit_is_not_taken_in() -> None:
    settings = GatewaySettings(max_body_bytes=64 * 1024)
    async with served(make_context(generator(), settings)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = GenerateRequest(model="tiny", text="x" * 1_000_000)
            await stub(channel).Generate(request).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await stub(channel).ListModels(inference_pb2.ListModelsRequest())


async def test_a_full_queue_says_when_to_try_again() -> None:
    fake = generator()
    fake.refusal = OverloadedError("full", retry_after_s=2.5)
    error, info = await refused(fake, text="x")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and info.reason == "overloaded"
    metadata: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Generate",
        f"/{SERVICE}/ListModels",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_bytes_that_are_no_message_are_refused(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(make_context(generator())) as channel:
        # A stream of both kinds is every kind on the wire.
        call: Any = channel.stream_stream(method)(iter([b"\xff\xff\xff\xff garbage"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert await stub(channel).ListModels(inference_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert method in (caught.value.details() or "")
    assert error_info(caught.value).reason == "invalid_request"
    assert not caplog.records


async def test_models_are_listed_with_their_readiness() -> None:
    context = make_context(generator())
    context.shortage = lambda _: "no worker"
    async with served(context) as channel:
        listed = await stub(channel).ListModels(inference_pb2.ListModelsRequest())
    (model,) = listed.models
    assert (model.id, model.max_model_len, model.ready) == ("tiny", 512, False)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_readiness(service: str) -> None:
    context = make_context(generator())
    reason: str | None = "no worker"
    context.not_ready = lambda: reason
    async with served(context) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        reason = None
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_reflection_lists_the_services() -> None:
    async with served(make_context(generator())) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = reflection.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {s.name for s in (await call.read()).list_services_response.service}
        wanted = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        await call.write(wanted)
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        call.cancel()
    assert names == {
        "baton.v1.InferenceService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_taken_port_is_named() -> None:
    context = make_context(generator())
    server = RpcServer(context, "127.0.0.1", 0)
    await server.start()
    with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}"):
        RpcServer(context, "127.0.0.1", server.port)
    await server.stop(0)


async def test_tokens_held_back_come_with_the_end() -> None:
    fake = FakeGenerator()
    async with served(make_context(fake)) as channel:
        call = stub(channel).Generate(GenerateRequest(model="tiny", text="x", stop=["hellos"]))
        ticket = await fake.submitted()
        ticket.feed(TOKENS[0])
        held = (await call.read()).delta
        assert (held.text, list(held.token_ids)) == ("", [TOKENS[0]])
        ticket.feed(TOKENS[1], FinishReason.LENGTH)
        last = (await call.read()).delta
        assert last.text == "hello world"
        assert last.finish_reason == common_pb2.FINISH_REASON_LENGTH
        assert (await call.read()).usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("in_message", "in_metadata", "given"),
    [
        ("mine", "", "mine"),
        ("", "theirs", "theirs"),
        ("mine", "theirs", "mine"),
        ("", "not sane", None),
        ("", "", None),
    ],
)
async def test_request_ids_come_back_in_metadata_and_find_the_request(
    in_message: str, in_metadata: str, given: str | None
) -> None:
    context = make_context(generator())
    async with served(context) as channel:
        request = inference_pb2.GenerateRequest(model="tiny", text="hi", request_id=in_message)
        metadata = (("x-request-id", in_metadata),) if in_metadata else ()
        call = stub(channel).Generate(request, metadata=metadata)
        found = dict(await call.initial_metadata())["x-request-id"]
        messages = [message async for message in call]
    assert found == given if given else len(found) == 32
    assert {message.request_id for message in messages} == {found}
    record = context.records.find(found)
    assert record is not None and record.api == "generate" and record.code == "ok"


async def test_refused_calls_have_an_id_too() -> None:
    async with served(make_context(generator())) as channel:
        request = inference_pb2.GenerateRequest(model="other", text="hi", request_id="mine")
        call = stub(channel).Generate(request)
        assert dict(await call.initial_metadata())["x-request-id"] == "mine"
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()


async def test_class_session_and_text_options_reach_the_request() -> None:
    fake = generator()
    messages = await generate(
        fake,
        text="hello",
        params=GenerateParams(max_tokens=100),
        priority="high",
        session_id="conversation",
        stop=["race"],
        include_stop_in_output=True,
    )
    (request,) = fake.requests
    assert request.priority > 0 and request.affinity == "conversation"
    assert text_of(messages) == "hello world, the race"
    error, info = await refused(generator(), text="hello", priority="urgent")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and info.metadata["param"] == "priority"


async def test_a_message_to_continue() -> None:
    fake = generator()
    chat = [
        inference_pb2.ChatMessage(role="user", content="hi"),
        inference_pb2.ChatMessage(role="assistant", content="so"),
    ]
    await generate(fake, chat=inference_pb2.ChatPrompt(messages=chat, continue_final_message=True))
    await generate(fake, chat=inference_pb2.ChatPrompt(messages=chat))
    continued, begun = fake.requests
    assert continued.prompt[-len(text_tokens("so")) :] == tuple(text_tokens("so"))
    assert len(begun.prompt) > len(continued.prompt)


async def test_tool_calls_reach_the_template() -> None:
    call = inference_pb2.ToolCall(id="1", name="look", arguments='{"at": 3}')
    chat = [
        inference_pb2.ChatMessage(role="user", content="hi"),
        inference_pb2.ChatMessage(role="assistant", tool_calls=[call]),
        inference_pb2.ChatMessage(role="tool", content="seen", tool_call_id="1"),
    ]
    # That of the tests knows none, and leaves nothing out silently.
    error, _ = await refused(generator(), chat=inference_pb2.ChatPrompt(messages=chat))
    assert "knows no tool calls" in (error.details() or "")
    chat[1].tool_calls[0].arguments = "[]"
    error, _ = await refused(generator(), chat=inference_pb2.ChatPrompt(messages=chat))
    assert "JSON object" in (error.details() or "")
