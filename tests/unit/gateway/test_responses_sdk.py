"""OpenAI's SDK on /v1/responses, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from baton.core.errors import WorkerLostError
from baton.gateway.api.responses_bodies import ResponsesBody
from fakes.gateway import http_server, make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = "hello world, the race goes on 🎉"


@asynccontextmanager
async def sdk(generator: FakeGenerator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        http_server(make_context(generator)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: text_tokens(TEXT), cached_tokens=3)


async def test_create_retrieve_delete() -> None:
    async with sdk(generator()) as client:
        first = await client.responses.create(
            model="tiny",
            input="hi",
            instructions="Be brief.",
            max_output_tokens=50,
            temperature=0.5,
            metadata={"a": "b"},
        )
        assert first.output_text == TEXT and first.status == "completed"
        assert first.usage is not None and first.usage.input_tokens_details.cached_tokens == 3
        second = await client.responses.create(
            model="tiny", input="and now?", previous_response_id=first.id
        )
        assert second.previous_response_id == first.id
        assert await client.responses.retrieve(second.id) == second
        await client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(second.id)


async def test_stream() -> None:
    async with sdk(generator()) as client:
        stream = await client.responses.create(model="tiny", input="hi", stream=True)
        text = ""
        async for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        assert event.type == "response.completed"
        assert event.response.output_text == text == TEXT


async def test_streaming_helper_builds_the_whole_response() -> None:
    async with (
        sdk(generator()) as client,
        client.responses.stream(model="tiny", input="hi") as stream,
    ):
        response = await stream.get_final_response()
    assert response.output_text == TEXT


async def test_output_goes_back_as_input() -> None:
    async with sdk(generator()) as client:
        first = await client.responses.create(model="tiny", input="hi", store=False)
        second = await client.responses.create(
            model="tiny",
            input=[
                {"role": "user", "content": "hi"},
                *first.output,  # type: ignore[list-item]
                {"role": "user", "content": "and now?"},
            ],
        )
    assert second.output_text == TEXT


async def test_errors_become_the_sdks() -> None:
    fake = generator()
    async with sdk(fake) as client:
        with pytest.raises(openai.BadRequestError, match="tools is not supported yet"):
            await client.responses.create(model="tiny", input="hi", tools=[{"type": "web_search"}])
        fake.failure = WorkerLostError("the worker died")
        fake.fail_after = 2
        stream = await client.responses.create(model="tiny", input="hi", stream=True)
        events = [event async for event in stream]
    assert events[-2].type == "error" and events[-2].message == "the worker died"
    assert events[-1].type == "response.failed"


def test_every_parameter_of_the_sdk_is_known() -> None:
    assert set(ResponseCreateParamsBase.__annotations__) <= set(ResponsesBody.model_fields)
