"""The Open Inference Protocol: whole and streamed answers, raw and typed tensors, refusals."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from baton.core.errors import OverloadedError
from baton.gateway.rpc.server import RpcServer
from baton.v1 import kserve_pb2, kserve_pb2_grpc
from fakes.gateway import make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = "the race goes on 🎉"
TOKENS = text_tokens(TEXT)
Request = kserve_pb2.ModelInferRequest


def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: TOKENS, cached_tokens=1)


@asynccontextmanager
async def stub_of(fake: FakeGenerator) -> AsyncIterator[Any]:
    server = RpcServer(make_context(fake), "127.0.0.1", 0)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield kserve_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await server.stop(0)


def typed(text: str, **fields: Any) -> Request:
    """A request whose tensors are in `contents`."""
    request = Request(model_name="tiny", **fields)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return request


def raw(**inputs: tuple[str, bytes]) -> Request:
    """A request whose tensors are in `raw_input_contents`, as Triton's clients send them."""
    request = Request(model_name="tiny", id="7")
    for name, (kind, value) in inputs.items():
        request.inputs.add(name=name, datatype=kind, shape=[1])
        prefix = struct.pack("<I", len(value)) if kind == "BYTES" else b""
        request.raw_input_contents.append(prefix + value)
    return request


def text_of(response: kserve_pb2.ModelInferResponse, name: str = "text_output") -> str:
    names = [output.name for output in response.outputs]
    index = names.index(name)
    if response.raw_output_contents:
        value = response.raw_output_contents[index]
        assert struct.unpack_from("<I", value)[0] == len(value) - 4
        return value[4:].decode()
    (value,) = response.outputs[index].contents.bytes_contents
    return value.decode()


async def test_a_whole_answer_with_usage() -> None:
    fake = generator()
    request = typed("hello", id="mine")
    request.parameters["max_tokens"].int64_param = 100
    request.parameters["temperature"].double_param = 0.0
    request.parameters["stop"].string_param = '["zzz"]'
    async with stub_of(fake) as stub:
        response = await stub.ModelInfer(request)
    assert (text_of(response), text_of(response, "finish_reason")) == (TEXT, "stop")
    assert (response.id, response.model_name) == ("mine", "tiny")
    assert response.parameters["completion_tokens"].int64_param == len(TOKENS) + 1
    assert response.parameters["cached_tokens"].int64_param == 1
    (submitted,) = fake.requests
    assert submitted.sampling.max_tokens == 100 and submitted.sampling.temperature == 0.0
    assert submitted.prompt == (0, *text_tokens("hello"))


async def test_raw_tensors_and_sampling_parameters_as_json() -> None:
    fake = generator()
    sampling = json.dumps({"max_tokens": 50, "top_k": "3", "seed": 5, "ignore_eos": False})
    request = raw(
        text_input=("BYTES", b"hello"),
        sampling_parameters=("BYTES", sampling.encode()),
        exclude_input_in_output=("BOOL", b"\x00"),
    )
    async with stub_of(fake) as stub:
        response = await stub.ModelInfer(request)
    assert text_of(response) == "hello" + TEXT
    (submitted,) = fake.requests
    assert (submitted.sampling.top_k, submitted.seed) == (3, 5)


async def test_a_stream_answers_many_requests_each_by_its_id() -> None:
    requests = [typed("hello", id=str(i)) for i in range(5)]
    for request in requests:
        request.parameters["max_tokens"].int64_param = 100
    requests[2].parameters["temperature"].double_param = 9.0
    texts = {str(i): "" for i in range(5)}
    errors: dict[str, str] = {}
    final: set[str] = set()
    async with stub_of(generator()) as stub:
        async for message in stub.ModelStreamInfer(aiter_of(requests)):
            response = message.infer_response
            if message.error_message:
                errors[response.id] = message.error_message
                continue
            texts[response.id] += text_of(response)
            if response.parameters["triton_final_response"].bool_param:
                final.add(response.id)
    assert final == {"0", "1", "3", "4"}
    assert {texts[i] for i in final} == {TEXT}
    assert set(errors) == {"2"} and "temperature" in errors["2"]


async def aiter_of(items: list[Request]) -> AsyncIterator[Request]:
    for item in items:
        yield item


def with_parameter(name: str, value: str) -> Request:
    request = typed("hello")
    request.parameters[name].string_param = value
    return request


def wrong_datatype() -> Request:
    request = Request(model_name="tiny")
    request.inputs.add(name="text_input", datatype="INT32", shape=[1])
    return request


def two_elements() -> Request:
    request = typed("hello")
    request.inputs[0].contents.bytes_contents.append(b"again")
    request.inputs[0].shape[0] = 2
    return request


def short_raw() -> Request:
    request = raw(text_input=("BYTES", b"hello"))
    request.raw_input_contents[0] = b"\xff\x00\x00\x00hi"
    return request


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Request(model_name="tiny"), "text_input"),
        (wrong_datatype(), "BYTES"),
        (two_elements(), "one element"),
        (short_raw(), "one element"),
        (raw(text_input=("BYTES", b"\xff\xfe")), "UTF-8"),
        (raw(text_input=("BYTES", b"hi"), image=("BYTES", b"x")), "image"),
        (raw(text_input=("BYTES", b"hi"), sampling_parameters=("BYTES", b"[]")), "JSON object"),
        (
            raw(text_input=("BYTES", b"hi"), sampling_parameters=("BYTES", b"[" * 100_000)),
            "JSON object",
        ),
        (with_parameter("stop", "[" * 100_000), "stop"),
        (with_parameter("max_tokens", "many"), "an integer"),
        (with_parameter("max_tokens", "inf"), "an integer"),
        (with_parameter("max_tokens", "-1"), "max_tokens"),
        (with_parameter("ignore_eos", "perhaps"), "true or false"),
        (with_parameter("beams", "3"), "no parameter 'beams'"),
        (with_parameter("stop", "[1]"), "stop"),
        (typed("hello", outputs=[Request.InferRequestedOutputTensor(name="logits")]), "logits"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(request_: Request, what: str) -> None:
    async with stub_of(generator()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert what in (caught.value.details() or "")


async def test_unknown_models_and_overload() -> None:
    fake = generator()
    fake.refusal = OverloadedError("too many")
    async with stub_of(fake) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(typed("hello"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in (
            stub.ModelInfer(Request(model_name="x")),
            stub.ModelMetadata(kserve_pb2.ModelMetadataRequest(name="x")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_and_metadata() -> None:
    async with stub_of(generator()) as stub:
        assert (await stub.ServerLive(kserve_pb2.ServerLiveRequest())).live
        assert (await stub.ServerReady(kserve_pb2.ServerReadyRequest())).ready
        assert (await stub.ModelReady(kserve_pb2.ModelReadyRequest(name="tiny"))).ready
        assert not (await stub.ModelReady(kserve_pb2.ModelReadyRequest(name="x"))).ready
        assert (await stub.ServerMetadata(kserve_pb2.ServerMetadataRequest())).name == "baton"
        model = await stub.ModelMetadata(kserve_pb2.ModelMetadataRequest(name="tiny"))
    assert [tensor.name for tensor in model.outputs] == ["text_output", "finish_reason"]


@pytest.mark.parametrize("odd", ["\n\n", "x" * 600, "\u00e9 x"])
async def test_an_odd_id_is_given_back_and_names_no_record(odd: str) -> None:
    fake = generator()
    async with stub_of(fake) as stub:
        response = await stub.ModelInfer(typed("hello", id=odd))
    assert response.id == odd
    (submitted,) = fake.requests
    assert odd not in submitted.request_id
