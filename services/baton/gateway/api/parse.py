"""Body bytes to checked values, every refusal naming the parameter it is about."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from baton.core.errors import InvalidRequestError, UnsupportedError
from baton.gateway.api.bodies import Body, Unserved

B = TypeVar("B", bound=Body)
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


def read(model: type[B], body: bytes) -> B:
    """Fields of the right types and no others, none of them unserved.

    Raises InvalidRequestError, or UnsupportedError for what is not served yet.
    """
    try:
        found = model.model_validate_json(body)
    except ValidationError as error:
        # With no URLs and no input: a prompt must not get into a message.
        raise _explain(model, error.errors(include_url=False), "") from None
    refuse_unserved(found)
    return found


def read_part(model: type[B], value: Any, at: str) -> B:
    """The same for a part of a body that came as parsed JSON; `at` is the path to it."""
    try:
        found = model.model_validate(value)
    except ValidationError as error:
        raise _explain(model, error.errors(include_url=False), at) from None
    refuse_unserved(found, f"{at}.")
    return found


def refuse_unserved(body: Body, at: str = "") -> None:
    """Raise UnsupportedError for a field that is set and marked `Unserved`."""
    marks = _unserved(type(body))
    for name in body.model_fields_set & marks.keys():
        value = getattr(body, name)
        if value is not None and not any(_same(value, but) for but in marks[name].but):
            raise unsupported(at + name, marks[name].what or name)


def unsupported(param: str, what: str) -> UnsupportedError:
    """The refusal of something that may be served one day."""
    return UnsupportedError(f"{what} is not supported yet; leave '{param}' out.", param=param)


def wrong_type(param: str, expected: str, got: Any) -> InvalidRequestError:
    """The refusal of a value of another type."""
    kind = _KINDS.get(type(got), "something else")
    return InvalidRequestError(
        f"Invalid type for '{param}': expected {expected}, but got {kind} instead.", param=param
    )


def stops(value: Any, param: str = "stop") -> tuple[str, ...]:
    """The `stop` parameter: nothing, a string, or up to 16."""
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(s, str) for s in found):
        raise wrong_type(param, "a string or an array of strings", value)
    if len(found) > MAX_STOPS:
        raise InvalidRequestError(
            f"Invalid '{param}': at most {MAX_STOPS} strings, got {len(found)}.", param=param
        )
    if "" in found:
        raise InvalidRequestError(f"Invalid '{param}': an empty string ends nothing.", param=param)
    return tuple(found)


def prompts(value: Any) -> list[Prompt]:
    """The `prompt` parameter: a text, token ids, or a list of either; none of them empty."""
    if isinstance(value, str):
        found: list[Any] = [value]
    elif value is None:
        raise InvalidRequestError("You must provide a 'prompt' parameter.", param="prompt")
    elif not isinstance(value, list):
        raise wrong_type("prompt", "a string or an array", value)
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
            raise wrong_type(name, "all strings or all arrays of token ids", prompt)
        if not prompt:
            raise InvalidRequestError(f"Invalid '{name}': the prompt is empty.", param="prompt")
        if kind is list and (wrong := [t for t in prompt if type(t) is not int]):
            raise wrong_type(name, "an array of integer token ids", wrong[0])
    return found


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


@cache
def _unserved(model: type[Body]) -> Mapping[str, Unserved]:
    return {
        name: mark
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Unserved)
    }


def _same(value: Any, allowed: Any) -> bool:
    # False is 0 to Python, but not to a client.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _explain(model: type[Body], found: list[ErrorDetails], at: str) -> InvalidRequestError:
    if unknown := [e for e in found if e["type"] == "extra_forbidden"]:
        return _unknown(model, unknown, at)
    error = found[0]
    kind = error["type"]
    param = _path(error["loc"], at)
    if kind == "json_invalid":
        return InvalidRequestError(
            f"We could not parse the JSON body of your request: {error['ctx']['error']}."
        )
    if not param:
        return InvalidRequestError("The body of your request must be a JSON object.")
    if kind == "missing":
        return InvalidRequestError(f"You must provide a '{param}' parameter.", param=param)
    if kind in _EXPECTED:
        return wrong_type(param, _EXPECTED[kind], error["input"])
    message = error["msg"].replace("Input should be ", "expected ")
    return InvalidRequestError(f"Invalid value for '{param}': {message}.", param=param)


def _unknown(model: type[Body], found: list[ErrorDetails], at: str) -> InvalidRequestError:
    paths = [_path(e["loc"], at)[:80] for e in found]
    loc = found[0]["loc"]
    near = difflib.get_close_matches(str(loc[-1])[:80], _owner(model, loc).model_fields, 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    plural = "s" if len(paths) > 1 else ""
    return InvalidRequestError(
        f"Unrecognized request argument{plural} supplied: {', '.join(paths[:10])}.{hint}",
        param=paths[0],
    )


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the object that the last part of a path is in."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _path(loc: tuple[int | str, ...], at: str) -> str:
    path = at
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path
