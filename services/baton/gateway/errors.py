"""The one place where the error tree meets HTTP and gRPC."""

from __future__ import annotations

import math
from typing import NamedTuple

import grpc
import orjson
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from baton.core.errors import (
    BatonError,
    InvalidKeyError,
    MethodNotAllowedError,
    OverloadedError,
    QuotaError,
    RateLimitError,
    UnavailableError,
)

ERROR_DOMAIN = "baton.dev"


class Mapping(NamedTuple):
    """How one code of the error tree looks outside: HTTP status, OpenAI's `type`, gRPC status."""

    http: int
    type: str
    grpc: grpc.StatusCode


_INVALID = "invalid_request_error"
_SERVER = "server_error"

_MAPPINGS = {
    "invalid_request": Mapping(400, _INVALID, grpc.StatusCode.INVALID_ARGUMENT),
    "unsupported": Mapping(400, _INVALID, grpc.StatusCode.INVALID_ARGUMENT),
    "context_length_exceeded": Mapping(400, _INVALID, grpc.StatusCode.INVALID_ARGUMENT),
    "payload_too_large": Mapping(413, _INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "model_not_found": Mapping(404, _INVALID, grpc.StatusCode.NOT_FOUND),
    "key_not_found": Mapping(404, _INVALID, grpc.StatusCode.NOT_FOUND),
    "not_found": Mapping(404, _INVALID, grpc.StatusCode.UNIMPLEMENTED),
    "method_not_allowed": Mapping(405, _INVALID, grpc.StatusCode.UNIMPLEMENTED),
    "unsupported_media_type": Mapping(415, _INVALID, grpc.StatusCode.INVALID_ARGUMENT),
    "unauthenticated": Mapping(401, "authentication_error", grpc.StatusCode.UNAUTHENTICATED),
    # OpenAI's types of these, as their documents show them.
    "invalid_api_key": Mapping(401, _INVALID, grpc.StatusCode.UNAUTHENTICATED),
    "insufficient_permissions": Mapping(403, _INVALID, grpc.StatusCode.PERMISSION_DENIED),
    "rate_limit_exceeded": Mapping(429, "requests", grpc.StatusCode.RESOURCE_EXHAUSTED),
    "insufficient_quota": Mapping(429, "insufficient_quota", grpc.StatusCode.RESOURCE_EXHAUSTED),
    "overloaded": Mapping(429, "rate_limit_error", grpc.StatusCode.RESOURCE_EXHAUSTED),
    "unavailable": Mapping(503, _SERVER, grpc.StatusCode.UNAVAILABLE),
    "worker_lost": Mapping(503, _SERVER, grpc.StatusCode.UNAVAILABLE),
    "handoff_failed": Mapping(503, _SERVER, grpc.StatusCode.UNAVAILABLE),
    # The client that went away sees neither; one whose gateway is stopping does.
    "cancelled": Mapping(503, _SERVER, grpc.StatusCode.CANCELLED),
    "deadline_exceeded": Mapping(504, _SERVER, grpc.StatusCode.DEADLINE_EXCEEDED),
}
_INTERNAL = Mapping(500, _SERVER, grpc.StatusCode.INTERNAL)


def mapping(error: BatonError) -> Mapping:
    """Statuses of an error; unknown codes are internal errors."""
    found = _MAPPINGS.get(error.code, _INTERNAL)
    return found._replace(type=error.kind) if isinstance(error, RateLimitError) else found


def internal(error: BaseException) -> BatonError:
    """What callers are told of a bug: nothing of its text, which may hold prompts."""
    return BatonError(f"internal error ({type(error).__name__}); the gateway's log has more")


def body(error: BatonError) -> bytes:
    """OpenAI's error document."""
    return orjson.dumps(
        {
            "error": {
                "message": error.message,
                "type": mapping(error).type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def headers(error: BatonError) -> list[tuple[bytes, bytes]]:
    """Headers that an error response has beside the usual ones."""
    if (seconds := _retry_after_s(error)) is not None:
        after = (b"retry-after", b"%d" % max(1, math.ceil(seconds)))
        if isinstance(error, RateLimitError | QuotaError):
            # OpenAI's SDK knows it, and it may be far less than a second.
            return [after, (b"retry-after-ms", b"%d" % max(1, math.ceil(seconds * 1000)))]
        return [after]
    if isinstance(error, InvalidKeyError):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, MethodNotAllowedError):
        return [(b"allow", error.allowed.encode())]
    return []


def _retry_after_s(error: BatonError) -> float | None:
    """When another try may succeed, if that can be said."""
    if isinstance(error, OverloadedError | RateLimitError | QuotaError | UnavailableError):
        return error.retry_after_s
    return None


def rpc_status(error: BatonError) -> status_pb2.Status:
    """google.rpc.Status with an ErrorInfo, whose `reason` is the error's code, and a RetryInfo."""
    metadata = {"retryable": "true" if error.retryable else "false"}
    if error.param is not None:
        metadata["param"] = error.param
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(reason=error.code, domain=ERROR_DOMAIN, metadata=metadata)
    )
    details = [detail]
    if (seconds := _retry_after_s(error)) is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(1, int(seconds * 1000)))
        details.append(any_pb2.Any())
        details[-1].Pack(retry)
    code: int = mapping(error).grpc.value[0]
    return status_pb2.Status(code=code, message=error.message, details=details)
