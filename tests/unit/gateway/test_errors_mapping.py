"""Errors as HTTP and gRPC show them."""

from __future__ import annotations

import json

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from baton.core import errors as tree
from baton.gateway import errors
from baton.gateway.api import anthropic_errors
from baton.store.base import StoreRefusesError, StoreUnavailableError


def all_errors() -> list[type[tree.BatonError]]:
    def below(root: type[tree.BatonError]) -> list[type[tree.BatonError]]:
        return [root, *(e for child in root.__subclasses__() for e in below(child))]

    return below(tree.BatonError)


@pytest.mark.parametrize(
    ("error", "http", "code"),
    [
        (tree.InvalidRequestError("m", param="n"), 400, grpc.StatusCode.INVALID_ARGUMENT),
        (tree.UnsupportedError("m"), 400, grpc.StatusCode.INVALID_ARGUMENT),
        (tree.ContextLengthError("m"), 400, grpc.StatusCode.INVALID_ARGUMENT),
        (tree.UnauthenticatedError("m"), 401, grpc.StatusCode.UNAUTHENTICATED),
        (tree.ModelNotFoundError("m"), 404, grpc.StatusCode.NOT_FOUND),
        (tree.PayloadTooLargeError("m"), 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (tree.OverloadedError("m"), 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (tree.InvalidKeyError("m"), 401, grpc.StatusCode.UNAUTHENTICATED),
        (tree.ForbiddenError("m"), 403, grpc.StatusCode.PERMISSION_DENIED),
        (tree.RateLimitError("m"), 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (tree.QuotaError("m"), 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (tree.BatonError("m"), 500, grpc.StatusCode.INTERNAL),
        (tree.UnavailableError("m"), 503, grpc.StatusCode.UNAVAILABLE),
        (tree.WorkerLostError("m"), 503, grpc.StatusCode.UNAVAILABLE),
        (tree.HandoffError("m"), 503, grpc.StatusCode.UNAVAILABLE),
        (tree.DeadlineExceededError("m"), 504, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_statuses(error: tree.BatonError, http: int, code: grpc.StatusCode) -> None:
    assert errors.mapping(error).http == http
    assert errors.mapping(error).grpc is code


def test_body_is_openais() -> None:
    body = json.loads(errors.body(tree.ContextLengthError("too long", param="messages")))
    assert body == {
        "error": {
            "message": "too long",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


def test_limits_have_openais_types() -> None:
    for error, kind, code in (
        (tree.RateLimitError("m", kind="tokens"), "tokens", "rate_limit_exceeded"),
        (tree.QuotaError("m"), "insufficient_quota", "insufficient_quota"),
        (tree.InvalidKeyError("m"), "invalid_request_error", "invalid_api_key"),
    ):
        document = json.loads(errors.body(error))["error"]
        assert (document["type"], document["code"]) == (kind, code)


def test_a_rate_limit_says_when_unless_it_is_never() -> None:
    assert errors.headers(tree.RateLimitError("m", retry_after_s=0.25)) == [
        (b"retry-after", b"1"),
        (b"retry-after-ms", b"250"),
    ]
    assert errors.headers(tree.RateLimitError("m")) == []


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    assert errors.headers(tree.OverloadedError("m", retry_after_s=0.2)) == [(b"retry-after", b"1")]
    assert errors.headers(tree.OverloadedError("m", retry_after_s=2.1)) == [(b"retry-after", b"3")]
    assert errors.headers(tree.InvalidRequestError("m")) == []
    assert errors.headers(tree.QuotaError("m")) == []
    assert errors.headers(tree.QuotaError("m", retry_after_s=3600.0)) == [
        (b"retry-after", b"3600"),
        (b"retry-after-ms", b"3600000"),
    ]


def test_rpc_status_carries_the_code_as_reason() -> None:
    status = errors.rpc_status(tree.OverloadedError("full", retry_after_s=1.5))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(retry)
    assert (status.code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "full")
    assert (info.reason, info.domain) == ("overloaded", "baton.dev")
    assert info.metadata["retryable"] == "true"
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_rpc_status_names_the_parameter() -> None:
    info = error_details_pb2.ErrorInfo()
    errors.rpc_status(tree.InvalidRequestError("m", param="n")).details[0].Unpack(info)
    assert dict(info.metadata) == {"retryable": "false", "param": "n"}


def test_where_the_store_is_stays_here() -> None:
    error = StoreUnavailableError("the store at redis://10.0.0.7:6379/0 does not answer")
    assert "10.0.0.7" in str(error)
    assert b"10.0.0.7" not in errors.body(error) + anthropic_errors.body(error)
    assert "10.0.0.7" not in errors.rpc_status(error).message
    assert errors.mapping(StoreRefusesError("no")).http == 503


def test_a_bugs_own_words_are_not_shown() -> None:
    assert "secret prompt" not in errors.internal(ValueError("secret prompt")).message


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_of_the_tree_has_statuses(kind: type[tree.BatonError]) -> None:
    error = kind.__new__(kind)
    assert 400 <= errors.mapping(error).http < 600
