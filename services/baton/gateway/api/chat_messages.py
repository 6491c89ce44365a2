"""Messages of OpenAI's chats to what chat templates take."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from baton.core.errors import InvalidRequestError
from baton.gateway.api.bodies import ChatMessage, FunctionCall
from baton.gateway.api.parse import refuse_unserved, unsupported, wrong_type

_MEDIA = ("image_url", "input_audio", "file", "video_url", "audio_url", "image", "input_image")


def template_messages(chat: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The chat as templates take it: plain texts, and the arguments of tool calls as objects."""
    if not chat:
        raise InvalidRequestError("Invalid 'messages': it is an empty array.", param="messages")
    return [_message(f"messages[{index}]", message) for index, message in enumerate(chat)]


def _message(at: str, message: ChatMessage) -> dict[str, Any]:
    refuse_unserved(message, f"{at}.")
    calls = _calls(at, message)
    given = "" if message.content is None and calls else message.content
    rendered: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role),
        "content": text_of(given, f"{at}.content"),
    }
    if message.name is not None:
        rendered["name"] = message.name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if calls:
        rendered["tool_calls"] = calls
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        rendered |= with_reasoning(reasoning)
    return rendered


_ROLES = {"developer": "system", "function": "tool"}


def with_reasoning(text: str) -> dict[str, str]:
    """Reasoning under each of the names that templates know, as in transformers."""
    return {"reasoning_content": text, "reasoning": text, "thinking": text}


def tool_call(name: str, arguments: object, call_id: str | None = None) -> dict[str, Any]:
    """One call as templates take it."""
    call: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return call if call_id is None else {"id": call_id, **call}


def arguments_of(call: FunctionCall, at: str) -> dict[str, Any]:
    """A call's arguments as the object that they spell."""
    if not call.arguments.strip():
        return {}
    try:
        found = json.loads(call.arguments)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(
            f"Invalid '{at}.arguments': expected the text of a JSON object.",
            param=f"{at}.arguments",
        )
    return found


def text_of(content: Any, at: str, kinds: Sequence[str] = ("text",)) -> str:
    """A content: a text, or a list of parts with texts, which become lines."""
    return join_parts(content, at, lambda part, name: _text_part(part, name, kinds))


def join_parts(content: Any, at: str, text: Callable[[dict[str, Any], str], str]) -> str:
    """A content of one text, or of parts whose texts `text` finds (given the part and its path)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong_type(at, "a string or an array of parts", content)
    texts = []
    for index, part in enumerate(content):
        name = f"{at}[{index}]"
        if not isinstance(part, dict):
            raise wrong_type(name, "an object", part)
        texts.append(text(part, name))
    return "\n".join(texts)


def _text_part(part: dict[str, Any], at: str, kinds: Sequence[str]) -> str:
    kind = part.get("type")
    if kind in _MEDIA:
        raise unsupported(f"{at}.type", f"content of type {kind}")
    text = part.get("text")
    if kind not in kinds or not isinstance(text, str):
        raise InvalidRequestError(
            f"Invalid '{at}': expected {{'type': '{kinds[0]}', 'text': '...'}}.", param=at
        )
    return text


def _calls(at: str, message: ChatMessage) -> list[dict[str, Any]]:
    found = []
    for index, call in enumerate(message.tool_calls or ()):
        where = f"{at}.tool_calls[{index}].function"
        arguments = arguments_of(call.function, where)
        found.append(tool_call(call.function.name, arguments, call.id))
    if message.function_call is not None:
        called = message.function_call
        found.append(tool_call(called.name, arguments_of(called, f"{at}.function_call")))
    return found
