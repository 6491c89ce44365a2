"""Messages of Anthropic's API to what chat templates take."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from baton.core.errors import InvalidRequestError
from baton.gateway.api.anthropic_bodies import (
    InputMessage,
    PromptBody,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from baton.gateway.api.bodies import Body
from baton.gateway.api.chat_messages import join_parts, tool_call, with_reasoning
from baton.gateway.api.parse import read_part, unsupported, wrong_type
from baton.gateway.text.chat_template import RenderOptions

_BLOCKS: dict[str, dict[str, type[Body]]] = {
    "user": {"text": TextBlock, "tool_result": ToolResultBlock},
    "assistant": {"text": TextBlock, "tool_use": ToolUseBlock, "thinking": ThinkingBlock},
    "system": {"text": TextBlock},
}


class Chat(NamedTuple):
    """A prompt for the chat template."""

    messages: list[dict[str, Any]]
    options: RenderOptions


def chat_of(body: PromptBody) -> Chat:
    """The whole prompt. Raises InvalidRequestError."""
    if not body.messages:
        raise InvalidRequestError("messages: at least one message is required", param="messages")
    messages: list[dict[str, Any]] = []
    if body.system is not None:
        messages.append({"role": "system", "content": _text(body.system, "system")})
    for role, turns in groupby(enumerate(body.messages), lambda turn: turn[1].role):
        blocks = [block for index, turn in turns for block in _blocks(turn, f"messages[{index}]")]
        if role == "assistant":
            messages.append(_assistant(blocks))
        else:
            messages += _others(role, blocks)
    continues = body.messages[-1].role == "assistant"
    if continues:
        _check_continued(messages[-1])
    return Chat(messages, RenderOptions(not continues, continues))


def _blocks(turn: InputMessage, at: str) -> Iterator[Body]:
    if isinstance(turn.content, str):
        yield TextBlock(type="text", text=turn.content)
        return
    if not isinstance(turn.content, list):
        raise wrong_type(f"{at}.content", "a string or an array of blocks", turn.content)
    known = _BLOCKS[turn.role]
    for index, block in enumerate(turn.content):
        where = f"{at}.content[{index}]"
        if not isinstance(block, dict):
            raise wrong_type(where, "an object", block)
        kind = block.get("type")
        if not isinstance(kind, str):
            raise wrong_type(f"{where}.type", "a string", kind)
        if kind not in known:
            raise unsupported(
                where, f"a block of type {kind[:64]!r} in a message of role {turn.role}"
            )
        yield read_part(known[kind], block, where)


def _assistant(blocks: list[Body]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "\n".join(b.text for b in blocks if isinstance(b, TextBlock)),
    }
    thoughts = [b.thinking for b in blocks if isinstance(b, ThinkingBlock)]
    if thoughts:
        message |= with_reasoning("\n".join(thoughts))
    calls = [tool_call(b.name, b.input, b.id) for b in blocks if isinstance(b, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
    return message


def _others(role: str, blocks: list[Body]) -> Iterator[dict[str, Any]]:
    """Texts that follow each other as one message, each tool's result as one of its own."""
    for is_text, run in groupby(blocks, lambda block: isinstance(block, TextBlock)):
        if is_text:
            texts = [block.text for block in run if isinstance(block, TextBlock)]
            yield {"role": role, "content": "\n".join(texts)}
            continue
        for block in run:
            assert isinstance(block, ToolResultBlock)
            result = {"role": "tool", "tool_call_id": block.tool_use_id}
            content = "" if block.content is None else block.content
            yield {**result, "content": _text(content, "tool_result.content")}


def _text(content: Any, at: str) -> str:
    return join_parts(content, at, _text_block)


def _text_block(block: dict[str, Any], at: str) -> str:
    kind = block.get("type")
    if isinstance(kind, str) and kind != "text":
        raise unsupported(at, f"a block of type {kind[:64]!r} here")
    return read_part(TextBlock, block, at).text


def _check_continued(message: dict[str, Any]) -> None:
    if "tool_calls" in message:
        raise InvalidRequestError(
            "messages: tool_use at the end needs a message with its tool_result", param="messages"
        )
    if message["content"] != message["content"].rstrip():
        raise InvalidRequestError(
            "messages: final assistant content cannot end with trailing whitespace",
            param="messages",
        )
