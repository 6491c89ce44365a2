"""/v1/completions, in one piece and streamed."""

from __future__ import annotations

from typing import Any

from baton.core.errors import OverloadedError
from baton.core.request import Request
from fakes.gateway import asgi_client, events, make_context, text_tokens
from fakes.generator import FakeGenerator

TEXT = " world 🎉 fine"
TOKENS = text_tokens(TEXT)


def script(request: Request, choice: int) -> list[int]:
    return TOKENS


async def post(generator: FakeGenerator, **fields: Any) -> Any:
    async with asgi_client(make_context(generator)) as client:
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 100, **fields}
        return await client.post("/v1/completions", json=body)


async def answer(generator: FakeGenerator | None = None, **fields: Any) -> dict[str, Any]:
    response = await post(generator or FakeGenerator(script), **fields)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def chunks(generator: FakeGenerator | None = None, **fields: Any) -> list[Any]:
    response = await post(generator or FakeGenerator(script), stream=True, **fields)
    assert response.status_code == 200, response.text
    found = events(response.text)
    assert found.pop() == "[DONE]"
    return found


def text_of(found: list[Any], index: int = 0) -> str:
    return "".join(c["text"] for e in found for c in e["choices"] if c["index"] == index)


async def test_answer_has_openais_shape() -> None:
    document = await answer()
    assert document.pop("id").startswith("cmpl-")
    assert isinstance(document.pop("created"), int)
    assert document == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": len(TOKENS) + 1,
            "total_tokens": len(TOKENS) + 3,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "system_fingerprint": None,
    }


async def test_stream_has_openais_shape() -> None:
    found = await chunks(stream_options={"include_usage": True})
    usage = found.pop()
    assert usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 2
    assert {e["object"] for e in found} == {"text_completion"}
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * (len(found) - 1) + ["stop"]
    assert text_of(found) == TEXT
    assert all(e["usage"] is None for e in found)


async def test_default_is_sixteen_tokens() -> None:
    generator = FakeGenerator(script)
    async with asgi_client(make_context(generator)) as client:
        await client.post("/v1/completions", json={"model": "tiny", "prompt": "hello"})
    assert generator.requests[0].sampling.max_tokens == 16


async def test_token_ids_are_taken_as_they_are() -> None:
    generator = FakeGenerator(script)
    await answer(generator, prompt=[5, 6, 7])
    assert generator.requests[0].prompt == (5, 6, 7)


async def test_batch_numbers_choices_by_prompt() -> None:
    generator = FakeGenerator(lambda r, c: text_tokens(f"{len(r.prompt)}{c}"))
    document = await answer(generator, prompt=[[5], [6, 7], [8, 9, 10]], n=2)
    assert [c["index"] for c in document["choices"]] == list(range(6))
    assert [c["text"] for c in document["choices"]] == ["10", "11", "20", "21", "30", "31"]
    assert document["usage"]["prompt_tokens"] == 6
    found = await chunks(
        FakeGenerator(lambda r, c: text_tokens(f"{len(r.prompt)}{c}")), prompt=[[5], [6, 7]], n=2
    )
    assert [text_of(found, i) for i in range(4)] == ["10", "11", "20", "21"]


async def test_refused_batch_cancels_what_was_submitted() -> None:
    generator = FakeGenerator()
    generator.refusal = OverloadedError("full")
    generator.refuse_after = 2
    response = await post(generator, prompt=["a", "b", "c"])
    assert response.status_code == 429
    assert [t.cancelled is not None for t in generator.tickets] == [True, True]


async def test_echo_shows_the_prompt_first() -> None:
    assert (await answer(echo=True))["choices"][0]["text"] == "hello" + TEXT
    by_ids = await answer(echo=True, prompt=[0, *text_tokens("hello")])
    assert by_ids["choices"][0]["text"] == "hello" + TEXT
    found = await chunks(echo=True, prompt=["hello", "race"], n=2)
    texts = [text_of(found, i) for i in range(4)]
    assert texts == ["hello" + TEXT] * 2 + ["race" + TEXT] * 2


async def test_stop_strings_look_at_the_answer_only() -> None:
    document = await answer(echo=True, stop="hello")
    assert document["choices"][0]["text"] == "hello" + TEXT


async def test_logprobs_have_offsets_into_the_text() -> None:
    document = await answer(logprobs=1)
    found = document["choices"][0]["logprobs"]
    assert len(found["tokens"]) == document["usage"]["completion_tokens"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        if not token.startswith(("bytes:", "</s>")):
            assert TEXT[offset:].startswith(token)
    # The parts of one character all begin where it does.
    assert found["text_offset"].count(TEXT.index(" 🎉")) > 1


async def test_streamed_logprobs_are_those_of_the_whole() -> None:
    whole = (await answer(logprobs=2))["choices"][0]["logprobs"]
    streamed: dict[str, list[Any]] = {name: [] for name in whole}
    for event in await chunks(logprobs=2):
        for name, values in (event["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == whole


async def test_token_ids_as_vllm_returns_them() -> None:
    document = await answer(return_token_ids=True, prompt=[[5], [6, 7]])
    assert [c["prompt_token_ids"] for c in document["choices"]] == [[5], [6, 7]]
    assert [c["token_ids"] for c in document["choices"]] == [[*TOKENS, 1]] * 2
    found = await chunks(return_token_ids=True, prompt=[[5], [6, 7]], echo=True)
    for index, prompt in enumerate([[5], [6, 7]]):
        mine = [e["choices"][0] for e in found if e["choices"][0]["index"] == index]
        assert mine[0]["prompt_token_ids"] == prompt
        assert [t for c in mine for t in c["token_ids"]] == [*TOKENS, 1]


async def test_stop_token_text_is_not_shown() -> None:
    generator = FakeGenerator(script, eos=text_tokens("hello")[0])
    assert (await answer(generator))["choices"][0]["text"] == TEXT


async def test_prompt_longer_than_the_context_names_both_numbers() -> None:
    response = await post(FakeGenerator(script), prompt=[5] * 600)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"] and "600" in error["message"]


async def test_invalid_token_ids_are_400() -> None:
    for prompt in ([5, 10**6], [-1]):
        response = await post(FakeGenerator(script), prompt=prompt)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "prompt"
