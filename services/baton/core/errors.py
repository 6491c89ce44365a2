"""The error tree. Gateways map it to HTTP and gRPC in `gateway.errors`, nowhere else.

Every error has a machine-readable `code` that crosses process boundaries, a message that says what
to do, and says whether a new attempt on another worker may succeed.
"""

from __future__ import annotations


class BatonError(Exception):
    """Root of all errors that a caller may see."""

    code = "internal_error"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(BatonError):
    """The request cannot be served as it stands; sending it again will not help."""

    code = "invalid_request"


class UnsupportedError(InvalidRequestError):
    """Asked for something that Baton does not serve yet."""

    code = "unsupported"


class ContextLengthError(InvalidRequestError):
    """Prompt and requested output do not fit the model's context."""

    code = "context_length_exceeded"


class PayloadTooLargeError(InvalidRequestError):
    """The body is larger than the gateway accepts."""

    code = "payload_too_large"


class ModelNotFoundError(InvalidRequestError):
    """No such model here."""

    code = "model_not_found"


class UnknownKeyError(InvalidRequestError):
    """No API key with this id."""

    code = "key_not_found"


class NotFoundError(BatonError):
    """No such path, or nothing under it (any more)."""

    code = "not_found"


class MethodNotAllowedError(BatonError):
    """The path takes other methods: those in `allowed`, as the header Allow lists them."""

    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed


class UnsupportedMediaTypeError(BatonError):
    """The body comes in an encoding that is not read."""

    code = "unsupported_media_type"


class UnauthenticatedError(BatonError):
    """The caller did not show the deployment's token."""

    code = "unauthenticated"


class InvalidKeyError(BatonError):
    """The client shows no API key, or none that is valid (any more)."""

    code = "invalid_api_key"


class ForbiddenError(BatonError):
    """The API key is valid, but not for this."""

    code = "insufficient_permissions"


class OverloadedError(BatonError):
    """The queue is full; try again later."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitError(BatonError):
    """A limit of the API key, or of its tenant, has no room for the request now.

    `kind` is what is limited: requests, tokens or concurrent_requests. `retry_after_s` is None when
    the request alone is more than the limit.
    """

    code = "rate_limit_exceeded"
    retryable = True
    kind = "requests"

    def __init__(
        self, message: str, *, kind: str = "requests", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s


class QuotaError(BatonError):
    """The budget of the API key, or of its tenant, is used up.

    `retry_after_s`: until its next day or month; None when no waiting helps.
    """

    code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(BatonError):
    """No worker can take it now."""

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(BatonError):
    """The request's deadline passed."""

    code = "deadline_exceeded"


class CancelledRequestError(BatonError):
    """The client went away, or the gateway is shutting down."""

    code = "cancelled"


class WorkerLostError(BatonError):
    """A worker died or became unreachable while it held the request.

    `left`: it had to go, as workers of a pool that is rolled do, so no request is to blame.
    """

    code = "worker_lost"
    retryable = True

    def __init__(self, message: str, *, left: bool = False) -> None:
        super().__init__(message)
        self.left = left


class HandoffError(BatonError):
    """The KV of a request could not be moved; its blocks were not read.

    `reason` is a word for metrics, from a small fixed set; by default a peer has said what cannot
    be.
    """

    code = "handoff_failed"
    retryable = True

    def __init__(self, message: str, *, reason: str = "contradiction") -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(BatonError):
    """Settings, flags or files are wrong; the process does not start."""

    code = "config_error"


class ModelLoadError(ConfigError):
    """A model folder cannot be loaded."""

    code = "model_load_error"


def _tree(root: type[BatonError]) -> list[type[BatonError]]:
    return [root, *(sub for child in root.__subclasses__() for sub in _tree(child))]


_BY_CODE: dict[str, type[BatonError]] = {cls.code: cls for cls in _tree(BatonError)}


def from_code(code: str, message: str) -> BatonError:
    """Rebuild an error that another process reported; unknown codes become the root."""
    return _BY_CODE.get(code, BatonError)(message)
