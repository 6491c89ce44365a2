"""Body bytes to checked values, every refusal naming the parameter it is about."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from baton.core.errors import InvalidRequestError, UnsupportedError
from baton.gateway.schemas import (
    Body,
    ChatBody,
    ChatMessage,
    CompletionBody,
    GenerationBody,
    StreamOptions,
)

B = TypeVar("B", bound=GenerationBody)
AnyBody = TypeVar("AnyBody", bound=Body)
Prompt = str | list[int]

MAX_PROMPTS = 1024
MAX_STOPS = 16

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_KINDS: dict[type, str] = {
    type(None): "null",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}
_NESTED: dict[str, type[Body]] = {"stream_options": StreamOptions, "messages": ChatMessage}


def read(model: type[AnyBody], body: bytes) -> AnyBody:
    """Fields of the right types and no others. Raises InvalidRequestError."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # With no URLs and no input: a prompt must not get into a message.
        raise _explain(model, error.errors(include_url=False)) from None


def parse(model: type[B], body: bytes) -> B:
    """Raises InvalidRequestError, or UnsupportedError for what is not served yet."""
    request = read(model, body)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if isinstance(request, ChatBody):
        _refuse(request, _CHAT_REFUSALS)
        _check_chat(request)
    elif isinstance(request, CompletionBody):
        _refuse(request, _COMPLETION_REFUSALS)
        _check_completion(request)
    return request


def stops(value: Any) -> tuple[str, ...]:
    """The `stop` parameter: nothing, a string, or up to 16."""
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
        raise _wrong_type("stop", "a string or an array of strings", value)
    if len(found) > MAX_STOPS:
        raise InvalidRequestError(
            f"Invalid 'stop': at most {MAX_STOPS} strings, got {len(found)}.", param="stop"
        )
    if "" in found:
        raise InvalidRequestError("Invalid 'stop': an empty string ends nothing.", param="stop")
    return tuple(found)


def prompts(value: Any) -> list[Prompt]:
    """The `prompt` parameter: a text, token ids, or a list of either; none of them empty."""
    if isinstance(value, str):
        found: list[Any] = [value]
    elif value is None:
        raise InvalidRequestError("You must provide a 'prompt' parameter.", param="prompt")
    elif not isinstance(value, list):
        raise _wrong_type("prompt", "a string or an array", value)
    elif value and type(value[0]) is int:
        found = [value]
    else:
        found = value
    if not found:
        raise InvalidRequestError("Invalid 'prompt': it is an empty array.", param="prompt")
    if len(found) > MAX_PROMPTS:
        raise InvalidRequestError(
            f"Invalid 'prompt': at most {MAX_PROMPTS} prompts in a request, got {len(found)}.",
            param="prompt",
        )
    kind = type(found[0])
    for index, prompt in enumerate(found):
        name = "prompt" if len(found) == 1 else f"prompt[{index}]"
        if type(prompt) not in (str, list) or type(prompt) is not kind:
            raise _wrong_type(name, "all strings or all arrays of token ids", prompt)
        if not prompt:
            raise InvalidRequestError(f"Invalid '{name}': the prompt is empty.", param="prompt")
        if kind is list and (wrong := [t for t in prompt if type(t) is not int]):
            raise _wrong_type(name, "an array of integer token ids", wrong[0])
    return found


def messages(chat: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """The chat as templates take it: plain texts."""
    if not chat:
        raise InvalidRequestError("Invalid 'messages': it is an empty array.", param="messages")
    return [_message(index, message) for index, message in enumerate(chat)]


def logit_bias(value: dict[str, float] | None) -> dict[int, float]:
    """Keys become integers; their range is checked with the model."""
    found: dict[int, float] = {}
    for key, bias in (value or {}).items():
        if not key.isascii() or not key.isdigit() or len(key) > 10:
            raise InvalidRequestError(
                f"Invalid key in 'logit_bias': {key[:32]!r} is no token id.", param="logit_bias"
            )
        found[int(key)] = bias
    return found


def _message(index: int, message: ChatMessage) -> dict[str, str]:
    at = f"messages[{index}]"
    if message.role in ("tool", "function"):
        raise _unsupported(f"{at}.role", f"messages of role {message.role}")
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise _unsupported(f"{at}.{name}", name)
    rendered = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _content(at, message.content),
    }
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _content(at: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong_type(f"{at}.content", "a string or an array of parts", content)
    texts = []
    for index, part in enumerate(content):
        name = f"{at}.content[{index}]"
        if not isinstance(part, dict):
            raise _wrong_type(name, "an object", part)
        kind = part.get("type")
        if kind in ("image_url", "input_audio", "file", "video_url", "audio_url", "image"):
            raise _unsupported(f"{name}.type", f"content of type {kind}")
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequestError(
                f"Invalid '{name}': expected {{'type': 'text', 'text': '...'}}.", param=name
            )
        texts.append(part["text"])
    return "\n".join(texts)


Refusal = tuple[str, Callable[[Any], bool], str]

_CHAT_REFUSALS: tuple[Refusal, ...] = (
    ("tools", lambda v: v == [], "tools"),
    ("tool_choice", lambda v: v == "none", "tool_choice other than none"),
    ("functions", lambda v: v == [], "functions"),
    ("function_call", lambda v: v == "none", "function_call other than none"),
    ("response_format", lambda v: v == {"type": "text"}, "response_format other than text"),
    ("modalities", lambda v: v == ["text"], "modalities other than text"),
    ("audio", lambda _: False, "audio"),
    ("web_search_options", lambda _: False, "web_search_options"),
    ("reasoning_effort", lambda _: False, "reasoning_effort"),
    ("verbosity", lambda _: False, "verbosity"),
)
_COMPLETION_REFUSALS: tuple[Refusal, ...] = (("suffix", lambda v: v == "", "suffix"),)


def _refuse(request: GenerationBody, refusals: Iterable[Refusal]) -> None:
    for name, allowed, what in refusals:
        value = getattr(request, name)
        if value is not None and not allowed(value):
            raise _unsupported(name, what)


def _check_chat(request: ChatBody) -> None:
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is true.",
            param="top_logprobs",
        )
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise InvalidRequestError(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
        )


def _check_completion(request: CompletionBody) -> None:
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        if request.best_of > n:
            raise _unsupported("best_of", f"best_of above n ({n})")
        raise InvalidRequestError(
            f"Invalid 'best_of': it must not be below n ({n}), got {request.best_of}.",
            param="best_of",
        )
    if request.echo and request.logprobs is not None:
        raise _unsupported("echo", "echo together with logprobs")


def _unsupported(param: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"{what} is not supported yet; leave '{param}' out.", param=param)


def _wrong_type(param: str, expected: str, got: Any) -> InvalidRequestError:
    kind = _KINDS.get(type(got), "something else")
    return InvalidRequestError(
        f"Invalid type for '{param}': expected {expected}, but got {kind} instead.", param=param
    )


def _explain(model: type[Body], found: list[ErrorDetails]) -> InvalidRequestError:
    if unknown := [e for e in found if e["type"] == "extra_forbidden"]:
        return _unknown(model, unknown)
    error = found[0]
    kind, at = error["type"], error["loc"]
    param = _path(at)
    if kind == "json_invalid":
        return InvalidRequestError(
            f"We could not parse the JSON body of your request: {error['ctx']['error']}."
        )
    if not at:
        return InvalidRequestError("The body of your request must be a JSON object.")
    if kind == "missing":
        return InvalidRequestError(f"You must provide a '{param}' parameter.", param=param)
    if kind in _EXPECTED:
        return _wrong_type(param, _EXPECTED[kind], error["input"])
    message = error["msg"].replace("Input should be ", "expected ")
    return InvalidRequestError(f"Invalid value for '{param}': {message}.", param=param)


def _unknown(model: type[Body], found: list[ErrorDetails]) -> InvalidRequestError:
    paths = [_path(e["loc"])[:80] for e in found]
    loc = found[0]["loc"]
    owner = model if len(loc) == 1 else _NESTED.get(str(loc[0]), model)
    near = difflib.get_close_matches(str(loc[-1])[:80], owner.model_fields, 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    plural = "s" if len(paths) > 1 else ""
    return InvalidRequestError(
        f"Unrecognized request argument{plural} supplied: {', '.join(paths[:10])}.{hint}",
        param=paths[0],
    )


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path
