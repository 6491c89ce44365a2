"""The anthropic SDK, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import pytest
from anthropic.types import Message, MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsBase

from baton.core.errors import OverloadedError, WorkerLostError
from baton.gateway.api.anthropic_bodies import MessagesBody, PromptBody
from fakes.gateway import http_server, make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = "hello world, the race goes on 🎉"


@asynccontextmanager
async def sdk(generator: FakeGenerator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        http_server(make_context(generator)) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def generator() -> FakeGenerator:
    return FakeGenerator(lambda *_: text_tokens(TEXT), cached_tokens=3)


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


async def test_messages() -> None:
    async with sdk(generator()) as client:
        message = await client.messages.create(
            model="tiny",
            max_tokens=100,
            system="Be brief.",
            messages=[{"role": "user", "content": "hi"}],
            stop_sequences=["never"],
            metadata={"user_id": "ann"},
            extra_body={"temperature": 0.5, "top_k": 5},
        )
    assert text_of(message) == TEXT
    assert message.stop_reason == "end_turn" and message.usage.cache_read_input_tokens == 3


async def test_streamed_messages() -> None:
    async with (
        sdk(generator()) as client,
        client.messages.stream(
            model="tiny", max_tokens=100, messages=[{"role": "user", "content": "hi"}]
        ) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == TEXT == text_of(message)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == len(text_tokens(TEXT)) + 1


async def test_an_answer_goes_back_into_the_chat() -> None:
    async with sdk(generator()) as client:
        first = await client.messages.create(
            model="tiny", max_tokens=100, messages=[{"role": "user", "content": "hi"}]
        )
        second = await client.messages.create(
            model="tiny",
            max_tokens=100,
            messages=[
                {"role": "user", "content": "hi"},
                first.to_param(),
                {"role": "user", "content": "and now?"},
            ],
        )
    assert text_of(second) == TEXT


async def test_count_tokens() -> None:
    async with sdk(generator()) as client:
        count = await client.messages.count_tokens(
            model="tiny", messages=[{"role": "user", "content": "hello world " * 400}]
        )
    # More than the model's context: only counted.
    assert count.input_tokens > 800


async def test_errors_become_the_sdks() -> None:
    fake = generator()
    async with sdk(fake) as client:
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await client.messages.create(
                model="claude", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )
        with pytest.raises(anthropic.BadRequestError, match="tools is not supported yet"):
            await client.messages.create(
                model="tiny",
                max_tokens=5,
                messages=[{"role": "user", "content": "hi"}],
                tools=[{"name": "f", "input_schema": {"type": "object"}}],
            )
        fake.refusal = OverloadedError("full")
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(
                model="tiny", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )


async def test_error_in_a_stream_is_raised_while_it_is_read() -> None:
    fake = generator()
    fake.failure = WorkerLostError("the worker died")
    fake.fail_after = 2
    text = ""
    async with sdk(fake) as client:
        with pytest.raises(anthropic.APIStatusError, match="the worker died"):
            async with client.messages.stream(
                model="tiny", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
            ) as stream:
                async for piece in stream.text_stream:
                    text += piece
    assert text == "hello world"


def test_every_parameter_of_the_sdk_is_known() -> None:
    """Served, accepted or refused by name, but never an unrecognized argument."""
    assert set(MessageCreateParamsBase.__annotations__) <= set(MessagesBody.model_fields)
    assert set(MessageCountTokensParams.__annotations__) <= set(PromptBody.model_fields)
