"""Whatever the OpenAPI document allows, and much that it does not, is answered without a 5xx."""

from __future__ import annotations

from itertools import islice
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.app import create_app
from fakes.gateway import MODEL, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.small_tokenizer import TOOL_TEMPLATE

CHAT = [{"role": "user", "content": "hi"}]
# What each needs; a few generated fields put into it are more often accepted than a whole body.
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": CHAT, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": CHAT},
    "/tokenize": {"prompt": "hi"},
    "/v1/baton/prefetch": {"prompt": "hi"},
}
NUM_FIELDS = 2


def script(request: Request, choice: int) -> list[int]:
    return text_tokens("hello world")


app = create_app(
    make_context(
        FakeGenerator(script),
        GatewaySettings(trust_request_chat_template=True),
        chat_template=TOOL_TEMPLATE,
    )
)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


def check(case: schemathesis.Case) -> None:
    response = case.call()
    case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])


@schema.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_server_error(case: schemathesis.Case) -> None:
    # A deadline that cannot be met is a 504, rightly.
    (case.headers or {}).pop("x-request-timeout", None)
    if isinstance(case.body, dict) and "model" in case.body:
        # Else nearly all would end at a model that does not exist.
        case.body["model"] = MODEL
    check(case)
    base = BASES.get(case.path)
    if base is not None and isinstance(case.body, dict):
        fields = ((name, value) for name, value in case.body.items() if name not in base)
        case.body = {"model": MODEL, **base, **dict(islice(fields, NUM_FIELDS))}
        check(case)
