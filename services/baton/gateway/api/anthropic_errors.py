"""Errors as Anthropic's API shows them."""

from __future__ import annotations

import orjson

from baton.core.errors import BatonError
from baton.gateway import errors

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def body(error: BatonError) -> bytes:
    """The error document, which is also the data of an `error` event."""
    kind = _TYPES.get(errors.mapping(error).http, "invalid_request_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": error.message}})
