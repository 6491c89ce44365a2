"""Histories with tools and reasoning, and messages that are gone on with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from baton.core.errors import InvalidRequestError
from baton.gateway.api.bodies import ChatMessage
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.parse import read_part
from baton.gateway.text.chat_template import ChatTemplate, RenderOptions
from fakes.small_tokenizer import CHAT_TEMPLATE, TOOL_TEMPLATE, byte_level

KEEPS_SPACE = CHAT_TEMPLATE.replace(" | trim", "")
CONTINUE = RenderOptions(add_generation_prompt=False, continue_final=True)
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I look",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"at": "Köln"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
    {"role": "assistant", "content": "It rains.", "reasoning": "so"},
    {"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": ""}},
    {"role": "function", "name": "f", "content": "y"},
]


def messages(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return template_messages(
        [read_part(ChatMessage, message, f"messages[{i}]") for i, message in enumerate(chat)]
    )


def test_tools_and_reasoning_reach_the_template() -> None:
    text = ChatTemplate(TOOL_TEMPLATE, {"bos_token": "<s>"}).render(messages(HISTORY))
    assert text == (
        "<s><|im_start|>user\nweather?<|im_end|>\n"
        "<|im_start|>assistant\n<think>I look</think>"
        '<tool_call>{"name": "weather", "arguments": {"at": "Köln"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\nc1: rain<|im_end|>\n"
        "<|im_start|>assistant\n<think>so</think>It rains.<|im_end|>\n"
        '<|im_start|>assistant\nx<tool_call>{"name": "f", "arguments": {}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n: y<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_that_would_drop_tool_calls_is_no_place_for_them() -> None:
    with pytest.raises(InvalidRequestError, match="knows no tool calls"):
        ChatTemplate(KEEPS_SPACE).render(messages(HISTORY[:2]))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, KEEPS_SPACE])
def test_going_on_is_that_of_transformers(template: str) -> None:
    theirs = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=byte_level(), bos_token="<s>", chat_template=template
    )
    ours = ChatTemplate(template, {"bos_token": "<s>"})

    @settings(deadline=None, derandomize=True)
    @given(st.text(alphabet="ab \n.<|im_end|>", max_size=12))
    def check(text: str) -> None:
        chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
        wanted = theirs.apply_chat_template(chat, tokenize=False, continue_final_message=True)
        assert ours.render(chat, CONTINUE) == wanted

    check()


@pytest.mark.parametrize(
    ("template", "chat", "options"),
    [
        (TOOL_TEMPLATE, HISTORY[:2], CONTINUE),
        ("{{ messages[0].content }}", HISTORY[2:4], CONTINUE),
        (CHAT_TEMPLATE, HISTORY[:1], RenderOptions(continue_final=True)),
    ],
)
def test_what_cannot_be_gone_on_with(
    template: str, chat: list[dict[str, Any]], options: RenderOptions
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate(template).render(messages(chat), options)
    assert caught.value.param == "continue_final_message"
