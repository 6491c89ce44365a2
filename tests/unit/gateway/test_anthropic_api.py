"""/v1/messages and /v1/messages/count_tokens: shapes, histories, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from baton.core.errors import OverloadedError, UnavailableError, WorkerLostError
from baton.core.request import Request
from fakes.gateway import CONTEXT_LENGTH, asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.small_tokenizer import TOOL_TEMPLATE

TEXT = "hello world, the race goes on 🎉"
TOKENS = text_tokens(TEXT)
HI = [{"role": "user", "content": "hi"}]


def script(request: Request, choice: int) -> list[int]:
    return TOKENS


async def post(
    generator: FakeGenerator, path: str = "/v1/messages", template: str | None = None, **fields: Any
) -> Any:
    context = (
        make_context(generator)
        if template is None
        else make_context(generator, chat_template=template)
    )
    async with asgi_client(context) as client:
        body = {"model": "tiny", "max_tokens": 100, "messages": HI, **fields}
        if path != "/v1/messages":
            del body["max_tokens"]
        headers = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
        return await client.post(path, json=body, headers=headers)


async def prompt_of(**fields: Any) -> str:
    """The rendered prompt of a request."""
    generator = FakeGenerator(script)
    context = make_context(generator, chat_template=TOOL_TEMPLATE)
    async with asgi_client(context) as client:
        body = {"model": "tiny", "max_tokens": 5, **fields}
        response = await client.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    (model,) = context.models.values()
    return model.tokenizer.decode(generator.requests[0].prompt, skip_special_tokens=False)


def parsed(text: str) -> list[tuple[str, Any]]:
    """Names and documents of events."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_answer_has_anthropics_shape() -> None:
    response = await post(FakeGenerator(script, cached_tokens=4))
    assert response.status_code == 200, response.text
    document = response.json()
    assert document.pop("id").startswith("msg_")
    usage = document.pop("usage")
    assert document == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    counted = await post(FakeGenerator(), "/v1/messages/count_tokens")
    assert usage == {
        "input_tokens": counted.json()["input_tokens"] - 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": len(TOKENS) + 1,
    }


async def test_stream_has_anthropics_events() -> None:
    response = await post(FakeGenerator(script, cached_tokens=4), stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = parsed(response.text)
    names = [name for name, _ in found]
    deltas = names.count("content_block_delta")
    assert deltas > 3
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == document["type"] for name, document in found)
    assert found[0][1]["message"]["usage"]["cache_read_input_tokens"] == 4
    assert found[0][1]["message"]["content"] == []
    texts = [d["delta"]["text"] for n, d in found if n == "content_block_delta"]
    assert "".join(texts) == TEXT
    last = found[-2][1]
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == len(TOKENS) + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"max_tokens": 2}, "max_tokens", None),
        ({"stop_sequences": ["never", "ce go"]}, "stop_sequence", "ce go"),
        ({"max_tokens": 100_000}, "end_turn", None),
    ],
)
async def test_why_it_stopped(
    fields: dict[str, Any], reason: str, sequence: str | None, stream: bool
) -> None:
    response = await post(FakeGenerator(script), stream=stream, **fields)
    found = parsed(response.text)[-2][1]["delta"] if stream else response.json()
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)


async def test_the_end_of_the_context_is_told_from_max_tokens() -> None:
    generator = FakeGenerator(lambda *_: [7] * 2 * CONTEXT_LENGTH)
    response = await post(generator, max_tokens=10 * CONTEXT_LENGTH)
    assert response.json()["stop_reason"] == "model_context_window_exceeded"


async def test_parameters_reach_the_request() -> None:
    generator = FakeGenerator(script)
    await post(
        generator,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        metadata={"user_id": "ann"},
        priority="high",
        cache_salt="s",
    )
    (request,) = generator.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 4)
    assert sampling.max_tokens == 100
    assert (request.affinity, request.priority, request.tenant_salt) == ("ann", 1, "s")


async def test_system_blocks_and_turns_of_one_role_are_joined() -> None:
    text = await prompt_of(
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": None}]},
        ],
    )
    assert text == (
        "<s><|im_start|>system\nBe\nbrief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_history_with_tools_and_thoughts_is_rendered() -> None:
    text = await prompt_of(
        messages=[
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I must look", "signature": "x"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"at": "here"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                    {"type": "tool_result", "tool_use_id": "t2"},
                    {"type": "text", "text": "so?"},
                ],
            },
        ]
    )
    assert text == (
        "<s><|im_start|>user\nweather?<|im_end|>\n"
        "<|im_start|>assistant\n<think>I must look</think>Looking."
        '<tool_call>{"name": "weather", "arguments": {"at": "here"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\nt1: rain<|im_end|>\n<|im_start|>tool\nt2: <|im_end|>\n"
        "<|im_start|>user\nso?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_an_assistants_last_turn_is_gone_on_with() -> None:
    text = await prompt_of(
        messages=[*HI, {"role": "assistant", "content": "The answer is ("}],
    )
    assert text.endswith("<|im_start|>assistant\nThe answer is (")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "assistant", "content": "so "}]}, "trailing whitespace"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}]}, "content[0].type"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools is not supported yet"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking is not supported"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"max_token": 5}, "Did you mean 'max_tokens'"),
    ],
)
async def test_refusals_have_anthropics_form(fields: dict[str, Any], words: str) -> None:
    response = await post(FakeGenerator(script), **fields)
    assert response.status_code == 400
    document = response.json()
    assert document["type"] == "error"
    assert document["error"]["type"] == "invalid_request_error"
    assert words in document["error"]["message"]


async def test_errors_have_anthropics_types() -> None:
    generator = FakeGenerator(script)
    assert (await post(generator, model="gpt")).json()["error"]["type"] == "not_found_error"
    generator.refusal = OverloadedError("full", retry_after_s=2)
    response = await post(generator)
    assert response.status_code == 429 and response.headers["retry-after"] == "2"
    assert response.json()["error"]["type"] == "rate_limit_error"
    generator.refusal = UnavailableError("no worker")
    assert (await post(generator)).json()["error"]["type"] == "overloaded_error"


async def test_error_in_a_stream_is_an_event() -> None:
    generator = FakeGenerator(script)
    generator.failure = WorkerLostError("the worker died")
    generator.fail_after = 3
    found = parsed((await post(generator, stream=True)).text)
    assert found[-1] == (
        "error",
        {"type": "error", "error": {"type": "overloaded_error", "message": "the worker died"}},
    )


async def test_body_too_large_is_anthropics_413() -> None:
    response = await post(
        FakeGenerator(script), messages=[{"role": "user", "content": "x" * 2**25}]
    )
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


async def test_wrong_methods_and_paths_are_refused_in_its_own_form() -> None:
    async with asgi_client(make_context(FakeGenerator())) as client:
        for response, kind in (
            (await client.get("/v1/messages"), "invalid_request_error"),
            (await client.post("/v1/messages/nope"), "not_found_error"),
        ):
            document = response.json()
            assert document["type"] == "error" and document["error"]["type"] == kind
