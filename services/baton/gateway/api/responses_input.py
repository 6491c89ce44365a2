"""Items of /v1/responses to what chat templates take."""

from __future__ import annotations

from typing import Any

from baton.core.errors import InvalidRequestError
from baton.gateway.api.bodies import Body, FunctionCall
from baton.gateway.api.chat_messages import arguments_of, text_of, tool_call, with_reasoning
from baton.gateway.api.parse import read_part, unsupported, wrong_type
from baton.gateway.api.responses_bodies import (
    FunctionCallItem,
    FunctionOutputItem,
    MessageItem,
    ReasoningItem,
)

Messages = list[dict[str, Any]]

_ITEMS: dict[str, type[Body]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
    "reasoning": ReasoningItem,
}
_TEXTS = ("input_text", "output_text", "text")


def messages_of(given: Any) -> Messages:
    """The `input` parameter: a text, or a list of items. Raises InvalidRequestError."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong_type("input", "a string or an array of items", given)
    if not given:
        raise InvalidRequestError("Invalid 'input': it is an empty array.", param="input")
    conversation = _Conversation()
    for index, item in enumerate(given):
        conversation.add(_read(item, f"input[{index}]"), f"input[{index}]")
    return conversation.messages


def _read(item: Any, at: str) -> Body:
    if not isinstance(item, dict):
        raise wrong_type(at, "an object", item)
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise wrong_type(f"{at}.type", "a string", kind)
    if kind not in _ITEMS:
        raise unsupported(at, f"an item of type {kind[:64]!r}")
    return read_part(_ITEMS[kind], item, at)


class _Conversation:
    """Puts what the assistant thought, said and called in one turn into one message."""

    def __init__(self) -> None:
        self.messages: Messages = []

    def add(self, item: Body, at: str) -> None:
        if isinstance(item, MessageItem):
            self._add_message(item, at)
        elif isinstance(item, FunctionCallItem):
            call = FunctionCall(name=item.name, arguments=item.arguments)
            arguments = arguments_of(call, at)
            calls = self._assistant().setdefault("tool_calls", [])
            calls.append(tool_call(item.name, arguments, item.call_id))
        elif isinstance(item, FunctionOutputItem):
            text = text_of(item.output, f"{at}.output", _TEXTS)
            self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
        elif isinstance(item, ReasoningItem):
            parts = item.content or item.summary or []
            text = text_of(parts, f"{at}.content", ("reasoning_text", "summary_text"))
            if text:
                self.messages.append({"role": "assistant", "content": "", **with_reasoning(text)})

    def _add_message(self, item: MessageItem, at: str) -> None:
        text = text_of(item.content, f"{at}.content", _TEXTS)
        last = self.messages[-1] if self.messages else {}
        if item.role == "assistant" and _is_open(last):
            last["content"] = text
            return
        role = "system" if item.role == "developer" else item.role
        self.messages.append({"role": role, "content": text})

    def _assistant(self) -> dict[str, Any]:
        """The assistant's turn that is going on, or a new one."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _is_open(message: dict[str, Any]) -> bool:
    """Whether the assistant has thought, and not spoken yet."""
    return "reasoning" in message and not message["content"] and "tool_calls" not in message
