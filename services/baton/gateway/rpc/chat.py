"""Chats of gRPC's requests, as HTTP's bodies have them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from baton.core.errors import InvalidRequestError
from baton.gateway.api.bodies import ChatMessage
from baton.gateway.text.chat_template import RenderOptions
from baton.v1 import inference_pb2


def messages(chat: inference_pb2.ChatPrompt) -> list[ChatMessage]:
    """Raises InvalidRequestError, naming the message, for roles that there are not."""
    return [_message(index, message) for index, message in enumerate(chat.messages)]


def render_options(chat: inference_pb2.ChatPrompt) -> RenderOptions:
    """How the chat is rendered. Raises InvalidRequestError."""
    continues = chat.continue_final_message
    begins = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else not continues
    variables = _object(chat.template_kwargs) if chat.template_kwargs else {}
    return RenderOptions(
        add_generation_prompt=begins, continue_final=continues, variables=variables
    )


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(
            "chat.template_kwargs must be the text of a JSON object.", param="chat.template_kwargs"
        )
    return found


def _message(index: int, message: inference_pb2.ChatMessage) -> ChatMessage:
    calls = [
        {"id": call.id or None, "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    fields = {
        "role": message.role,
        "content": message.content,
        "name": message.name or None,
        "reasoning_content": message.reasoning_content or None,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id or None,
    }
    try:
        return ChatMessage.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = f"chat.messages[{index}].{first['loc'][0]}"
        expected = first["msg"].replace("Input should be", "must be")
        raise InvalidRequestError(f"{at} {expected}.", param=at) from None
