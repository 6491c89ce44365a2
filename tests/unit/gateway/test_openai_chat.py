"""/v1/chat/completions, in one piece and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from baton.core.errors import OverloadedError, UnavailableError, WorkerLostError
from baton.core.request import FinishReason, Request
from fakes.gateway import asgi_client, events, make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = "hello world, the race goes on 🎉"
TOKENS = text_tokens(TEXT)
HI = [{"role": "user", "content": "hi"}]


def script(request: Request, choice: int) -> list[int]:
    return TOKENS


async def post(generator: FakeGenerator, **fields: Any) -> Any:
    async with asgi_client(make_context(generator)) as client:
        return await client.post(
            "/v1/chat/completions", json={"model": "tiny", "messages": HI, **fields}
        )


async def answer(generator: FakeGenerator | None = None, **fields: Any) -> dict[str, Any]:
    response = await post(generator or FakeGenerator(script), **fields)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def chunks(generator: FakeGenerator | None = None, **fields: Any) -> list[Any]:
    response = await post(generator or FakeGenerator(script), stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = events(response.text)
    assert found.pop() == "[DONE]"
    return found


def text_of(found: list[Any], index: int = 0) -> str:
    deltas = [c["delta"] for e in found for c in e["choices"] if c["index"] == index]
    return "".join(d.get("content", "") for d in deltas)


async def test_answer_has_openais_shape() -> None:
    document = await answer(FakeGenerator(script, cached_tokens=4))
    assert document.pop("id").startswith("chatcmpl-")
    assert isinstance(document.pop("created"), int)
    num_prompt = document["usage"]["prompt_tokens"]
    assert document == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": len(TOKENS) + 1,
            "total_tokens": num_prompt + len(TOKENS) + 1,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
        "system_fingerprint": None,
    }


async def test_stream_has_openais_shape() -> None:
    found = await chunks()
    assert len({e["id"] for e in found}) == 1 and found[0]["id"].startswith("chatcmpl-")
    assert {e["object"] for e in found} == {"chat.completion.chunk"}
    first, *middle, last = found
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert all(list(e["choices"][0]["delta"]) == ["content"] for e in middle)
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert text_of(found) == TEXT
    assert all("usage" not in e for e in found)


async def test_usage_comes_last_with_no_choices() -> None:
    found = await chunks(stream_options={"include_usage": True})
    assert all(e["usage"] is None for e in found[:-1])
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == len(TOKENS) + 1


async def test_prompt_is_the_rendered_chat() -> None:
    generator = FakeGenerator(script)
    await answer(generator)
    (request,) = generator.requests
    im_start, im_end = 2, 3
    tail = [*text_tokens("user\nhi"), im_end, *text_tokens("\n"), im_start]
    assert request.prompt == (0, im_start, *tail, *text_tokens("assistant\n"))
    assert request.sampling.max_tokens == 512 - len(request.prompt)


async def test_parameters_reach_the_request() -> None:
    generator = FakeGenerator(script)
    await answer(
        generator,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        seed=-5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"7": -100},
        ignore_eos=True,
        min_tokens=3,
        stop_token_ids=[9],
        n=2,
        logprobs=True,
        top_logprobs=5,
    )
    (request,) = generator.requests
    sampling = request.sampling
    assert sampling.max_tokens == 7 and sampling.min_tokens == 3
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 4)
    assert (sampling.min_p, sampling.presence_penalty) == (0.1, 0.5)
    assert sampling.frequency_penalty == -0.5 and dict(sampling.logit_bias) == {7: -100.0}
    assert sampling.ignore_eos and sampling.stop_token_ids == (9,)
    assert sampling.logprobs and sampling.top_logprobs == 5
    assert request.seed == 2**64 - 5 and request.num_choices == 2


async def test_choices_keep_apart() -> None:
    words = ["hello", " world", " race"]
    per_choice = FakeGenerator(lambda _, choice: text_tokens(words[choice]))
    document = await answer(per_choice, n=3)
    assert [c["message"]["content"] for c in document["choices"]] == words
    assert [c["index"] for c in document["choices"]] == [0, 1, 2]
    found = await chunks(FakeGenerator(lambda _, c: text_tokens(words[c])), n=3)
    assert [text_of(found, i) for i in range(3)] == words
    roles = [e["choices"][0]["index"] for e in found if "role" in e["choices"][0]["delta"]]
    assert roles == [0, 1, 2]


async def test_max_tokens_ends_with_length() -> None:
    document = await answer(max_tokens=2)
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 2
    assert (await chunks(max_tokens=2))[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("per_turn", [1, 4, 100])
async def test_stop_string_is_not_shown_and_ends_the_work(per_turn: int) -> None:
    generator = FakeGenerator(script, per_turn=per_turn)
    document = await answer(generator, stop=["never", "ce go"])
    assert document["choices"][0]["message"]["content"] == "hello world, the ra"
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["completion_tokens"] < len(TOKENS)
    found = await chunks(FakeGenerator(script, per_turn=per_turn), stop="ce go")
    assert text_of(found) == "hello world, the ra"


async def test_held_back_text_comes_with_the_end() -> None:
    found = await chunks(stop="🎉!")
    assert text_of(found) == TEXT


async def test_logprobs_cover_every_token() -> None:
    document = await answer(logprobs=True, top_logprobs=2)
    content = document["choices"][0]["logprobs"]["content"]
    assert len(content) == document["usage"]["completion_tokens"]
    raw = b"".join(bytes(entry["bytes"]) for entry in content[:-1])
    assert raw.decode() == TEXT
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)


async def test_streamed_logprobs_are_those_of_the_whole() -> None:
    whole = (await answer(logprobs=True))["choices"][0]["logprobs"]["content"]
    found = await chunks(logprobs=True)
    streamed = [
        entry
        for e in found
        if e["choices"][0]["logprobs"]
        for entry in e["choices"][0]["logprobs"]["content"]
    ]
    assert streamed == whole
    assert text_of(found) == TEXT


async def test_token_ids_as_vllm_returns_them() -> None:
    generator = FakeGenerator(script)
    document = await answer(generator, return_token_ids=True)
    prompt = list(generator.requests[0].prompt)
    assert document["prompt_token_ids"] == prompt
    assert document["choices"][0]["token_ids"] == [*TOKENS, 1]
    found = await chunks(return_token_ids=True)
    assert found[0]["prompt_token_ids"] == prompt
    assert all("prompt_token_ids" not in e for e in found[1:])
    ids = [t for e in found for t in e["choices"][0].get("token_ids", [])]
    assert ids == [*TOKENS, 1]


async def test_error_before_the_first_token_has_its_status() -> None:
    generator = FakeGenerator(script)
    generator.failure = WorkerLostError("the worker died")
    for stream in (False, True):
        response = await post(generator, stream=stream)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "worker_lost"


async def test_error_after_the_first_token_is_an_event() -> None:
    generator = FakeGenerator(script)
    generator.failure = WorkerLostError("the worker died")
    generator.fail_after = 3
    response = await post(generator, stream=True)
    assert response.status_code == 200
    found = events(response.text)
    assert found[-1]["error"]["code"] == "worker_lost"
    assert text_of(found[:-1]) == "hello world,"


async def test_full_queue_is_429_with_retry_after() -> None:
    generator = FakeGenerator(script)
    generator.refusal = OverloadedError("the queue is full", retry_after_s=2.5)
    for stream in (False, True):
        response = await post(generator, stream=stream)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "3"
        assert response.json()["error"]["type"] == "rate_limit_error"


async def test_no_worker_is_503() -> None:
    generator = FakeGenerator(script)
    generator.refusal = UnavailableError("no workers")
    assert (await post(generator)).status_code == 503


async def test_a_request_that_ends_without_its_choices_is_an_error() -> None:
    class EndsEarly(FakeGenerator):
        async def _play(self, ticket: Any, script: Any) -> None:
            ticket.end(None)

    assert (await post(EndsEarly(script))).status_code == 500


async def test_empty_answer_is_an_answer() -> None:
    silent = FakeGenerator(lambda *_: [])
    assert (await answer(silent))["choices"][0]["message"]["content"] == ""


async def test_tokens_after_a_choices_end_are_ignored() -> None:
    class Chatty(FakeGenerator):
        async def _play(self, ticket: Any, script: Any) -> None:
            assert not ticket.sink.on_token(0, TOKENS[0], None, None)
            assert ticket.sink.on_token(0, TOKENS[1], None, FinishReason.LENGTH)
            assert ticket.sink.on_token(0, TOKENS[2], None, None)
            ticket.sink.on_end(None)
            ticket.sink.on_end(WorkerLostError("late"))

    document = await answer(Chatty(script))
    assert document["choices"][0]["message"]["content"] == "hello world"
