"""The openai SDK, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest

from baton.core.errors import OverloadedError, WorkerLostError
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


async def test_chat() -> None:
    async with sdk(generator()) as client:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            logprobs=True,
            top_logprobs=2,
            seed=1,
            extra_body={"top_k": 5, "ignore_eos": False},
        )
    choice = answer.choices[0]
    assert choice.message.content == TEXT and choice.finish_reason == "stop"
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert choice.logprobs.content[0].token == "hello"
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_streamed_chat() -> None:
    async with sdk(generator()) as client:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            stream=True,
            stream_options={"include_usage": True},
            n=2,
        )
        texts = {0: "", 1: ""}
        reasons = {}
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason is not None:
                    reasons[choice.index] = choice.finish_reason
    assert texts == {0: TEXT, 1: TEXT} and reasons == {0: "stop", 1: "stop"}
    assert usage is not None and usage.completion_tokens == 2 * (len(text_tokens(TEXT)) + 1)


async def test_streaming_helper_builds_the_whole_answer() -> None:
    async with (
        sdk(generator()) as client,
        client.chat.completions.stream(
            model="tiny", messages=[{"role": "user", "content": "hi"}], logprobs=True
        ) as stream,
    ):
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == TEXT


async def test_an_answer_goes_back_into_the_chat() -> None:
    async with sdk(generator()) as client:
        first = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
        second = await client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "user", "content": "hi"},
                first.choices[0].message,  # type: ignore[list-item]
                {"role": "user", "content": "and now?"},
            ],
        )
    assert second.choices[0].message.content == TEXT


async def test_completions() -> None:
    async with sdk(generator()) as client:
        answer = await client.completions.create(
            model="tiny", prompt=["a", "b"], max_tokens=50, logprobs=2
        )
        assert [c.text for c in answer.choices] == [TEXT, TEXT]
        assert answer.choices[0].logprobs is not None
        assert answer.choices[0].logprobs.text_offset is not None
        stream = await client.completions.create(
            model="tiny", prompt=[5, 6], max_tokens=50, stream=True
        )
        assert "".join([c.choices[0].text async for c in stream]) == TEXT


async def test_models() -> None:
    async with sdk(generator()) as client:
        assert [m.id async for m in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).owned_by == "baton"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other/model")


async def test_errors_become_the_sdks() -> None:
    fake = generator()
    async with sdk(fake) as client:
        messages = [{"role": "user", "content": "hi"}]
        with pytest.raises(openai.NotFoundError, match="'gpt-4' does not exist"):
            await client.chat.completions.create(model="gpt-4", messages=messages)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="tiny",
                messages=messages,  # type: ignore[arg-type]
                tools=[{"type": "function", "function": {"name": "f"}}],
            )
        assert caught.value.param == "tools" and caught.value.code == "unsupported"
        fake.refusal = OverloadedError("full")
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="tiny", messages=messages)  # type: ignore[arg-type]


async def test_error_in_a_stream_is_raised_while_it_is_read() -> None:
    fake = generator()
    fake.failure = WorkerLostError("the worker died")
    fake.fail_after = 2
    async with sdk(fake) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = ""
        with pytest.raises(openai.APIError, match="the worker died"):
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
    assert text == "hello world"
