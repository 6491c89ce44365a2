"""What vLLM's clients send to chats and completions: served, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
import tokenizers
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from tokenizers import models

from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.api.bodies import ChatBody, CompletionBody
from baton.gateway.text.tokenizer import Tokenizer
from fakes.gateway import CONTEXT_LENGTH, asgi_client, events, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.small_tokenizer import CHAT_TEMPLATE

TEXT = "hello world, the race goes on"
TOKENS = text_tokens(TEXT)
HI = [{"role": "user", "content": "hi"}]


def script(request: Request, choice: int) -> list[int]:
    return TOKENS


async def complete(
    generator: FakeGenerator | None = None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    async with asgi_client(make_context(generator or FakeGenerator(script))) as client:
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 100, **fields}
        return await client.post("/v1/completions", json=body, headers=headers)


async def chat(
    generator: FakeGenerator | None = None,
    settings: GatewaySettings | None = None,
    template: str = CHAT_TEMPLATE,
    **fields: Any,
) -> httpx.Response:
    context = make_context(generator or FakeGenerator(script), settings, chat_template=template)
    async with asgi_client(context) as client:
        body = {"model": "tiny", "messages": HI, **fields}
        return await client.post("/v1/chat/completions", json=body)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


def test_every_parameter_of_the_sdk_is_known() -> None:
    assert set(ChatParams.__annotations__) <= set(ChatBody.model_fields)
    assert set(CompletionParams.__annotations__) <= set(CompletionBody.model_fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_beam_search", True),
        ("repetition_penalty", 1.1),
        ("prompt_logprobs", 0),
        ("allowed_token_ids", [1]),
        ("bad_words", ["x"]),
        ("logits_processors", ["x"]),
        ("structured_outputs", {"regex": "x"}),
        ("guided_json", {}),
        ("guided_regex", "x"),
        ("guided_choice", ["x"]),
        ("guided_grammar", "x"),
        ("kv_transfer_params", {"do_remote_decode": True}),
        ("vllm_xargs", {"x": 1}),
        ("response_format", {"type": "json_object"}),
    ],
)
async def test_what_would_change_the_output_is_refused(field: str, value: Any) -> None:
    for call in (complete, chat):
        response = await call(**{field: value})
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_beam_search", False),
        ("length_penalty", 0.5),
        ("early_stopping", False),
        ("repetition_penalty", 1),
        ("repetition_penalty", 1.0),
        ("bad_words", []),
        ("kv_transfer_params", {}),
        ("structured_outputs", None),
        ("spaces_between_special_tokens", True),
        ("spaces_between_special_tokens", False),
        ("skip_special_tokens", True),
    ],
)
async def test_what_changes_nothing_is_accepted(field: str, value: Any) -> None:
    assert text_of(await complete(**{field: value})) == TEXT


async def test_beam_search_is_not_switched_off_by_a_number() -> None:
    assert (await complete(use_beam_search=0)).status_code == 400


async def test_stop_string_can_be_shown() -> None:
    for per_turn in (1, 4):
        generator = FakeGenerator(script, per_turn=per_turn)
        shown = await complete(generator, stop="ce go", include_stop_str_in_output=True)
        assert text_of(shown) == "hello world, the race go"
    stop_token = FakeGenerator(lambda *_: TOKENS[:2], eos=TOKENS[2])
    assert text_of(await complete(stop_token)) == "hello world"
    stop_token = FakeGenerator(lambda *_: TOKENS[:2], eos=TOKENS[2])
    assert text_of(await complete(stop_token, include_stop_str_in_output=True)) == "hello world,"


async def test_special_tokens_can_be_shown() -> None:
    generator = FakeGenerator(lambda *_: [2, *TOKENS[:2], 3, 3])
    assert text_of(await complete(generator, skip_special_tokens=False)) == (
        "<|im_start|>hello world<|im_end|><|im_end|>"
    )
    assert text_of(await complete(FakeGenerator(lambda *_: [2, *TOKENS]))) == TEXT


async def test_spaces_between_special_tokens_are_kept_where_the_decoder_has_them() -> None:
    plain = tokenizers.Tokenizer(models.WordLevel({"hello": 0, "[UNK]": 1}, unk_token="[UNK]"))
    plain.add_special_tokens(["<a>", "<b>"])
    context = make_context(FakeGenerator(lambda *_: [2, 3]))
    served = replace(context.models["tiny"], tokenizer=Tokenizer(plain))
    context.models = {"tiny": served}
    body: dict[str, Any] = {"model": "tiny", "prompt": "hello", "skip_special_tokens": False}
    async with asgi_client(context) as client:
        shown = await client.post("/v1/completions", json=body)
        body["spaces_between_special_tokens"] = False
        refused = await client.post("/v1/completions", json=body)
    assert text_of(shown) == " <a> <b>"
    assert refused.json()["error"]["param"] == "spaces_between_special_tokens"


async def test_special_tokens_are_added_as_wanted() -> None:
    generator = FakeGenerator(script)
    await complete(generator, add_special_tokens=False)
    await chat(generator, add_special_tokens=True)
    completion, chatted = generator.requests
    assert completion.prompt == tuple(text_tokens("hello"))
    assert chatted.prompt[:3] == (0, 0, 2)


async def test_prompts_are_truncated_from_the_left() -> None:
    generator = FakeGenerator(script)
    await complete(generator, prompt=[[5, 6, 7, 8], [9]], truncate_prompt_tokens=2)
    assert [r.prompt for r in generator.requests] == [(7, 8), (9,)]
    generator = FakeGenerator(script)
    long = "hello " * 5000
    for fields in ({"max_tokens": 100}, {"max_tokens": None}):
        response = await complete(generator, prompt=long, truncate_prompt_tokens=-1, **fields)
        assert response.status_code == 200, response.text
    assert [len(r.prompt) for r in generator.requests] == [
        CONTEXT_LENGTH - 100,
        CONTEXT_LENGTH - 16,
    ]
    response = await chat(
        messages=[{"role": "user", "content": long}], truncate_prompt_tokens=40, max_tokens=5
    )
    assert response.json()["usage"]["prompt_tokens"] == 40
    assert (await complete(truncate_prompt_tokens=0)).status_code == 400
    echoed = await complete(prompt="hello world", truncate_prompt_tokens=1, echo=True)
    assert text_of(echoed) == " world" + TEXT


async def test_request_id_is_in_the_answers_id() -> None:
    response = await complete(headers={"x-request-id": "outer"}, request_id="my-1")
    assert response.json()["id"] == "cmpl-my-1"
    assert response.headers["x-request-id"] == "my-1"
    generator = FakeGenerator(script)
    for _ in range(2):
        assert (await chat(generator, request_id="my-1")).json()["id"] == "chatcmpl-my-1"
    # Inside each has a name of its own.
    assert len({r.request_id for r in generator.requests}) == 2
    assert (await complete(request_id="a b")).json()["error"]["param"] == "request_id"


async def test_priority_and_affinity_reach_the_request() -> None:
    generator = FakeGenerator(script)
    await complete(generator, priority=-5, user="ann")
    await complete(generator, priority="low", user="ann", prompt_cache_key="talk")
    await complete(
        generator, {"x-session-id": "s1", "x-priority": "high"}, priority="low", user="ann"
    )
    await complete(generator)
    found = [(r.priority, r.affinity) for r in generator.requests]
    assert found == [(1, "ann"), (-1, "talk"), (1, "s1"), (0, "")]
    assert (await complete(priority="urgent")).json()["error"]["param"] == "priority"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_usage_so_far_is_in_every_chunk(path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    call = complete if path == "/v1/completions" else chat
    response = await call(stream=True, stream_options=options, max_tokens=6)
    found = events(response.text)[:-1]
    counts = [e["usage"]["completion_tokens"] for e in found]
    assert counts == sorted(counts) and counts[-1] == 6 and len(set(counts)) > 3
    assert len({e["usage"]["prompt_tokens"] for e in found}) == 1
    assert found[-1]["choices"] == []
    alone = await call(stream=True, stream_options={"continuous_usage_stats": True})
    assert all("usage" not in e for e in events(alone.text)[:-1])


async def test_tokens_are_named_by_their_ids() -> None:
    response = await complete(logprobs=1, return_tokens_as_token_ids=True)
    assert response.json()["choices"][0]["logprobs"]["tokens"][0] == f"token_id:{TOKENS[0]}"
    response = await chat(logprobs=True, return_tokens_as_token_ids=True)
    entry = response.json()["choices"][0]["logprobs"]["content"][0]
    assert entry["token"] == f"token_id:{TOKENS[0]}"


async def test_variables_and_documents_reach_the_template() -> None:
    template = (
        "{{ messages[0].content }}{% if enable_thinking %} world{% endif %}"
        "{% for d in documents or [] %}{{ d.text }}{% endfor %}"
    )
    generator = FakeGenerator(script)
    for fields in (
        {},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"documents": [{"text": " fine"}]},
    ):
        await chat(generator, template=template, **fields)
    assert [r.prompt for r in generator.requests] == [
        tuple(text_tokens("hi" + more)) for more in ("", " world", " fine")
    ]
    response = await chat(chat_template_kwargs={"messages": []})
    assert response.json()["error"]["param"] == "chat_template_kwargs"


async def test_clients_templates_run_only_where_they_are_trusted() -> None:
    source = "{{ messages[0].content }} world"
    response = await chat(chat_template=source)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template"
    trusting = GatewaySettings(trust_request_chat_template=True)
    generator = FakeGenerator(script)
    for _ in range(20):
        assert (await chat(generator, trusting, chat_template=source)).status_code == 200
    assert generator.requests[0].prompt == tuple(text_tokens("hi world"))
    for broken in ("{% if %}", "{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}"):
        assert (await chat(generator, trusting, chat_template=broken)).status_code == 400
