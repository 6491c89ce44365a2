"""Open Inference Protocol messages to Generate and back (pure).

A text model takes `text_input` and gives `text_output`, as Triton's backends for language models
name them. Sampling parameters come as request parameters, or as a JSON object in the input
`sampling_parameters`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from baton.core.errors import InvalidRequestError
from baton.v1 import common_pb2, inference_pb2, kserve_pb2

TEXT_INPUT, TEXT_OUTPUT, FINISH_REASON = "text_input", "text_output", "finish_reason"
SAMPLING, STREAM, EXCLUDE = "sampling_parameters", "stream", "exclude_input_in_output"
_INPUTS = {TEXT_INPUT: "BYTES", SAMPLING: "BYTES", STREAM: "BOOL", EXCLUDE: "BOOL"}
# Of the protocol and of Triton's clients; none of them changes the answer.
_IGNORED = frozenset(
    {
        "binary_data_output",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
        "triton_enable_empty_final_response",
    }
)
_FINISH: dict[int, str] = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}


def _integer(value: Any) -> int:
    number = float(value)
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError
    return int(value) if isinstance(value, int) else int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError


def _stops(value: Any) -> list[str]:
    """One string, or a JSON array of them, which parameters can hold only as a string."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else [value]
    if not isinstance(value, list) or not all(isinstance(stop, str) for stop in value):
        raise ValueError
    return value


_PARAMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "temperature": (_number, "a number"),
    "top_p": (_number, "a number"),
    "top_k": (_integer, "an integer"),
    "min_p": (_number, "a number"),
    "presence_penalty": (_number, "a number"),
    "frequency_penalty": (_number, "a number"),
    "max_tokens": (_integer, "an integer"),
    "min_tokens": (_integer, "an integer"),
    "ignore_eos": (_flag, "true or false"),
}


def generate_request(request: kserve_pb2.ModelInferRequest) -> inference_pb2.GenerateRequest:
    """What it asks for, as Generate has it. Raises InvalidRequestError naming the input."""
    inputs = _inputs(request)
    if TEXT_INPUT not in inputs:
        raise InvalidRequestError(
            f"The input '{TEXT_INPUT}' (BYTES, one element) is missing.", param=TEXT_INPUT
        )
    known = {TEXT_OUTPUT, FINISH_REASON}
    for output in request.outputs:
        if output.name not in known:
            raise InvalidRequestError(
                f"There is no output '{output.name[:64]}', only {', '.join(sorted(known))}.",
                param="outputs",
            )
    found = inference_pb2.GenerateRequest(
        model=request.model_name, text=_text(inputs[TEXT_INPUT], TEXT_INPUT)
    )
    if SAMPLING in inputs:
        _set_all(found, _json_object(_text(inputs[SAMPLING], SAMPLING)))
    _set_all(
        found,
        {
            name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
            for name, value in request.parameters.items()
        },
    )
    return found


def includes_prompt(request: kserve_pb2.ModelInferRequest) -> bool:
    """The text is to begin with the prompt: `exclude_input_in_output` is false."""
    return _inputs(request).get(EXCLUDE, b"\x01") == b"\x00"


def infer_response(
    request: kserve_pb2.ModelInferRequest,
    text: str,
    finish: int = common_pb2.FINISH_REASON_UNSPECIFIED,
    usage: inference_pb2.Usage | None = None,
) -> kserve_pb2.ModelInferResponse:
    """A piece of an answer, or all of it; with `usage` the last."""
    response = kserve_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
    wanted = [output.name for output in request.outputs] or [TEXT_OUTPUT, FINISH_REASON]
    values = {TEXT_OUTPUT: text.encode(), FINISH_REASON: _FINISH.get(finish, "").encode()}
    for name in wanted:
        value = values[name]
        output = response.outputs.add(name=name, datatype="BYTES", shape=[1])
        if request.raw_input_contents:
            response.raw_output_contents.append(struct.pack("<I", len(value)) + value)
        else:
            output.contents.bytes_contents.append(value)
    if usage is not None:
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            response.parameters[name].int64_param = getattr(usage, name)
        response.parameters["triton_final_response"].bool_param = True
    return response


def model_metadata(name: str) -> kserve_pb2.ModelMetadataResponse:
    """The tensors of a text model."""
    tensor = kserve_pb2.ModelMetadataResponse.TensorMetadata
    return kserve_pb2.ModelMetadataResponse(
        name=name,
        platform="baton",
        inputs=[tensor(name=n, datatype=kind, shape=[1]) for n, kind in _INPUTS.items()],
        outputs=[tensor(name=n, datatype="BYTES", shape=[1]) for n in (TEXT_OUTPUT, FINISH_REASON)],
    )


def _inputs(request: kserve_pb2.ModelInferRequest) -> dict[str, bytes]:
    """The one element of each input, in bytes."""
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(raws)} raw_input_contents for {len(request.inputs)} inputs.",
            param="raw_input_contents",
        )
    found: dict[str, bytes] = {}
    for index, tensor in enumerate(request.inputs):
        kind = _INPUTS.get(tensor.name)
        if kind is None or tensor.name in found:
            raise InvalidRequestError(
                f"The input '{tensor.name[:64]}' is not one of {', '.join(_INPUTS)}, or there "
                "twice.",
                param="inputs",
            )
        element = None
        if tensor.datatype == kind:
            element = _raw(kind, raws[index]) if raws else _contents(kind, tensor.contents)
        if element is None or any(length != 1 for length in tensor.shape):
            raise InvalidRequestError(
                f"The input '{tensor.name}' must be one element of {kind}, with shape [1].",
                param=tensor.name,
            )
        found[tensor.name] = element
    return found


def _raw(kind: str, raw: bytes) -> bytes | None:
    if kind == "BOOL":
        return raw if len(raw) == 1 else None
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != len(raw) - 4:
        return None
    return raw[4:]


def _contents(kind: str, contents: kserve_pb2.InferTensorContents) -> bytes | None:
    if kind == "BOOL":
        flags = contents.bool_contents
        return bytes([flags[0]]) if len(flags) == 1 else None
    texts = contents.bytes_contents
    return texts[0] if len(texts) == 1 else None


def _text(raw: bytes, param: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"The input '{param}' is not UTF-8.", param=param) from None


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError(f"The input '{SAMPLING}' must be a JSON object.", param=SAMPLING)
    return found


def _set_all(request: inference_pb2.GenerateRequest, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in _IGNORED:
            continue
        try:
            _set(request, name, value)
        except (ValueError, TypeError, OverflowError, RecursionError):
            expected = _PARAMS[name][1] if name in _PARAMS else "another type or range"
            raise InvalidRequestError(
                f"Invalid value for '{name[:64]}': expected {expected}.", param=name[:64]
            ) from None


def _set(request: inference_pb2.GenerateRequest, name: str, value: Any) -> None:
    if name in _PARAMS:
        setattr(request.params, name, _PARAMS[name][0](value))
    elif name == "seed":
        request.seed = _integer(value) & (2**64 - 1)
    elif name == "stop":
        request.stop.extend(_stops(value))
    elif name == "cache_salt":
        request.cache_salt = value
    else:
        raise InvalidRequestError(
            f"There is no parameter '{name[:64]}'; there are: "
            f"{', '.join([*_PARAMS, 'seed', 'stop', 'cache_salt'])}.",
            param=name[:64],
        )
