"""Bodies: what is accepted, and refusals that name the parameter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import BatonError, InvalidRequestError, UnsupportedError
from baton.gateway.api import parse
from baton.gateway.api.bodies import ChatBody, CompletionBody
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.openai import ChatCompletions, Completions
from baton.gateway.context import Context

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "tiny", "prompt": "hi"}


def no_context() -> Context:
    raise AssertionError("checks need none")


def chat(**fields: Any) -> ChatBody:
    body = parse.read(ChatBody, json.dumps({**CHAT, **fields}).encode())
    ChatCompletions(no_context).check(body)
    return body


def completion(**fields: Any) -> CompletionBody:
    body = parse.read(CompletionBody, json.dumps({**COMPLETION, **fields}).encode())
    Completions(no_context).check(body)
    return body


def refused(call: Any, *args: Any, **fields: Any) -> BatonError:
    with pytest.raises(InvalidRequestError) as caught:
        call(*args, **fields)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1,", b'{"model": "\xff"}', b'{"model": "\\ud800"}', b"{'model': 1}"],
)
def test_malformed_json_is_said_to_be_so(body: bytes) -> None:
    error = refused(parse.read, ChatBody, body)
    assert error.message.startswith("We could not parse the JSON body of your request")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"3"])
def test_body_must_be_an_object(body: bytes) -> None:
    assert "must be a JSON object" in refused(parse.read, ChatBody, body).message


def test_deeply_nested_json_is_refused() -> None:
    body = b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert "recursion limit" in refused(parse.read, ChatBody, body).message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("max_tokens", "5", "expected an integer, but got a string"),
        ("max_tokens", 5.0, "expected an integer, but got a number"),
        ("max_tokens", True, "expected an integer, but got a boolean"),
        ("n", 1.5, "expected an integer"),
        ("temperature", "0.5", "expected a number, but got a string"),
        ("temperature", True, "expected a number, but got a boolean"),
        ("top_p", float("nan"), "expected a finite number"),
        ("min_p", float("inf"), "expected a finite number"),
        ("stream", 1, "expected true or false, but got an integer"),
        ("stream", "true", "expected true or false"),
        ("ignore_eos", 0, "expected true or false"),
        ("seed", 1.0, "expected an integer"),
        ("user", 7, "expected a string, but got an integer"),
        ("model", None, "expected a string, but got null"),
        ("messages", "hi", "expected an array, but got a string"),
        ("logit_bias", [1], "expected an object, but got an array"),
        ("stop_token_ids", 3, "expected an array, but got an integer"),
        ("logprobs", 3, "expected true or false"),
    ],
)
def test_wrong_types_name_the_field(field: str, value: Any, expected: str) -> None:
    error = refused(chat, **{field: value})
    assert f"Invalid type for '{field}'" in error.message
    assert expected in error.message
    assert error.param == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 0), ("n", 129), ("top_logprobs", 21), ("seed", 2**63), ("seed", -(2**63) - 1)],
)
def test_values_out_of_range_name_the_field(field: str, value: int) -> None:
    error = refused(chat, logprobs=True, **{field: value})
    assert f"Invalid value for '{field}'" in error.message
    assert error.param == field


def test_missing_fields_are_named() -> None:
    assert refused(parse.read, ChatBody, b'{"model": "m"}').param == "messages"
    assert refused(parse.read, CompletionBody, b'{"prompt": "p"}').param == "model"


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"max_token": 3}, "max_token", "Did you mean 'max_tokens'?"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
        ({"zzz": 1}, "zzz", ""),
        (
            {"stream": True, "stream_options": {"include_usag": True}},
            "stream_options.include_usag",
            "Did you mean 'include_usage'?",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "nam": "y"}]},
            "messages[0].nam",
            "Did you mean 'name'?",
        ),
    ],
)
def test_unknown_fields_are_refused_with_the_nearest_name(
    body: dict[str, Any], param: str, hint: str
) -> None:
    error = refused(chat, **body)
    assert error.message == f"Unrecognized request argument supplied: {param}.{hint and ' ' + hint}"
    assert error.param == param


def test_a_prompt_never_gets_into_an_error() -> None:
    error = refused(completion, prompt=["secret words", 7], temperature="secret")
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"prompt_cache_key": "k", "safety_identifier": "s", "user": "u"},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    ],
)
def test_openai_fields_without_effect_are_accepted(fields: dict[str, Any]) -> None:
    chat(**fields)
    completion(**fields)


def test_chat_fields_without_effect_are_accepted() -> None:
    chat(
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        modalities=["text"],
        prediction={"type": "content", "content": "x"},
    )
    chat(tools=None, tool_choice=None, response_format=None, logit_bias=None, stop=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x", "format": "wav"}),
        ("web_search_options", {}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
    ],
)
def test_what_is_not_served_yet_is_refused_by_name(field: str, value: Any) -> None:
    error = refused(chat, **{field: value})
    assert isinstance(error, UnsupportedError)
    assert error.param == field
    assert "not supported yet" in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_completion_parameters_not_served_yet(fields: dict[str, Any], param: str) -> None:
    error = refused(completion, **fields)
    assert isinstance(error, UnsupportedError)
    assert error.param == param


def test_completion_parameters_with_no_effect() -> None:
    completion(suffix="", best_of=2, n=2, echo=False)
    assert "must not be below n" in refused(completion, best_of=1, n=2).message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_logprobs": 2}, "only allowed when 'logprobs' is true"),
        ({"stream_options": {"include_usage": True}}, "only allowed when 'stream'"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "at the same time"),
    ],
)
def test_parameters_that_need_or_exclude_another(fields: dict[str, Any], words: str) -> None:
    assert words in refused(chat, **fields).message


@pytest.mark.parametrize(
    ("value", "stops"), [(None, ()), ("a", ("a",)), (["a", "bc"], ("a", "bc")), ([], ())]
)
def test_stop_takes_a_string_or_several(value: Any, stops: tuple[str, ...]) -> None:
    assert parse.stops(value) == stops


@pytest.mark.parametrize("value", ["", [""], ["a"] * 17, 3, {"a": 1}, [1]])
def test_stop_refuses_what_cannot_stop(value: Any) -> None:
    assert refused(parse.stops, value).param == "stop"


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_of_all_kinds(value: Any, prompts: list[Any]) -> None:
    assert parse.prompts(value) == prompts


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        [""],
        [[]],
        ["a", ""],
        ["a", [1]],
        [1, "a"],
        [1, 2.0],
        [1, True],
        [True],
        [None],
        [[1], [1.5]],
        {"a": 1},
        7,
        ["a"] * 1025,
    ],
)
def test_prompts_that_are_none(value: Any) -> None:
    error = refused(parse.prompts, value)
    assert error.param is not None and error.param.startswith("prompt")


def test_parts_of_text_are_joined_and_developer_is_system() -> None:
    body = chat(
        messages=[
            {"role": "developer", "content": "d"},
            {
                "role": "user",
                "name": "ann",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "x", "refusal": None, "annotations": []},
        ]
    )
    assert template_messages(body.messages) == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "a\nb", "name": "ann"},
        {"role": "assistant", "content": "x"},
    ]


@pytest.mark.parametrize(
    ("message", "param", "unsupported"),
    [
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}],
            },
            "messages[0].tool_calls[0].function.arguments",
            False,
        ),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "messages[0].audio", True),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
            "messages[0].content[0].type",
            True,
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "messages[0].content[0].type",
            True,
        ),
        ({"role": "user", "content": None}, "messages[0].content", False),
        ({"role": "user", "content": [7]}, "messages[0].content[0]", False),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0]", False),
        ({"role": "user", "content": [{"type": "poem"}]}, "messages[0].content[0]", False),
    ],
)
def test_messages_that_are_refused(message: dict[str, Any], param: str, unsupported: bool) -> None:
    error = refused(template_messages, chat(messages=[message]).messages)
    assert error.param == param
    assert isinstance(error, UnsupportedError) == unsupported


def test_unknown_role_and_no_messages_are_refused() -> None:
    assert refused(chat, messages=[{"role": "robot", "content": "x"}]).param == "messages[0].role"
    assert refused(template_messages, chat(messages=[]).messages).param == "messages"


@pytest.mark.parametrize("key", ["x", "-1", "1.5", "", "²", "9" * 11])
def test_logit_bias_keys_are_token_ids(key: str) -> None:
    assert refused(parse.logit_bias, {key: 1.0}).param == "logit_bias"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([*ChatBody.model_fields, *CompletionBody.model_fields])


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_parsed_or_refused(fields: dict[str, Any]) -> None:
    for read in (chat, completion):
        try:
            body: Any = read(**fields)
            parse.stops(body.stop)
            parse.logit_bias(body.logit_bias)
            if isinstance(body, ChatBody):
                template_messages(body.messages)
            else:
                parse.prompts(body.prompt)
        except InvalidRequestError as error:
            assert error.message
