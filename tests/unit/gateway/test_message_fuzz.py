"""Histories of every API: any JSON is understood or refused."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import InvalidRequestError
from baton.gateway.api import parse
from baton.gateway.api.anthropic_bodies import MessagesBody
from baton.gateway.api.anthropic_messages import chat_of
from baton.gateway.api.bodies import ChatBody
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.responses_bodies import ResponsesBody
from baton.gateway.api.responses_input import messages_of
from baton.gateway.text.chat_template import ChatTemplate
from fakes.small_tokenizer import TOOL_TEMPLATE

LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3) | st.just("{}")
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "robot"])
KINDS = st.sampled_from(
    [
        "text",
        "thinking",
        "tool_use",
        "tool_result",
        "message",
        "function",
        "function_call",
        "function_call_output",
        "reasoning",
        "reasoning_text",
        "input_text",
        "image",
    ]
)
NAMES = st.sampled_from(
    [
        "text",
        "thinking",
        "content",
        "name",
        "id",
        "input",
        "tool_use_id",
        "tool_call_id",
        "tool_calls",
        "function",
        "arguments",
        "call_id",
        "output",
        "summary",
        "reasoning_content",
        "status",
    ]
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(NAMES, inner, max_size=4)
    tagged = st.fixed_dictionaries({}, optional={"type": KINDS, "role": ROLES})
    return st.builds(lambda a, b: {**a, **b}, fields, tagged)


JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | objects(inner), max_leaves=12
)
ITEMS = st.lists(objects(JSON) | JSON, max_size=4)
TEMPLATE = ChatTemplate(TOOL_TEMPLATE)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(ITEMS)
def test_any_history_is_rendered_or_refused(items: list[Any]) -> None:
    for api in (openai, anthropic, responses):
        try:
            messages = api(items)
            TEMPLATE.render(messages)
        except InvalidRequestError as error:
            assert error.message
        else:
            assert all(isinstance(message["content"], str) for message in messages)


def openai(items: list[Any]) -> list[dict[str, Any]]:
    body = parse.read(ChatBody, json.dumps({"model": "m", "messages": items}).encode())
    return template_messages(body.messages)


def anthropic(items: list[Any]) -> list[dict[str, Any]]:
    fields = {"model": "m", "max_tokens": 1, "messages": items}
    return chat_of(parse.read(MessagesBody, json.dumps(fields).encode())).messages


def responses(items: list[Any]) -> list[dict[str, Any]]:
    body = parse.read(ResponsesBody, json.dumps({"model": "m", "input": items}).encode())
    return messages_of(body.input)
