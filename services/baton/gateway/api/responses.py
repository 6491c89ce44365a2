"""OpenAI's Responses API: stateless, or going on from a response that was kept."""

from __future__ import annotations

import time
from typing import Any

from baton.core.errors import InvalidRequestError, NotFoundError, UnsupportedError
from baton.gateway.answer.base import Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.stream import EventStream
from baton.gateway.api.endpoint import Endpoint
from baton.gateway.api.kept_responses import Kept
from baton.gateway.api.prepare import ServedModel
from baton.gateway.api.responses_answer import (
    Frame,
    Keep,
    ResponseDocument,
    ResponseObject,
    ResponseStream,
)
from baton.gateway.api.responses_bodies import ResponsesBody
from baton.gateway.api.responses_input import Messages, messages_of
from baton.gateway.api.wanted import requests_for, wanted
from baton.gateway.context import Context
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.asgi import draw_id
from baton.gateway.http.exchange import Exchange
from baton.gateway.keys.caller import caller_of

LOGPROBS = "message.output_text.logprobs"
# What may be asked for although the items that would have it do not come.
_INCLUDABLE = frozenset(
    {
        LOGPROBS,
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "message.input_image.image_url",
    }
)


class Responses(Endpoint[ResponsesBody]):
    """POST /v1/responses"""

    api = "responses"
    body = ResponsesBody

    def check(self, body: ResponsesBody) -> None:
        if body.stream_options is not None and not body.stream:
            raise InvalidRequestError(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                param="stream_options",
            )
        for name in body.include or ():
            if name not in _INCLUDABLE:
                raise InvalidRequestError(
                    f"Invalid 'include': {name[:64]!r} is none of "
                    f"{', '.join(sorted(_INCLUDABLE))}.",
                    param="include",
                )

    def request_id(self, body: ResponsesBody) -> str | None:
        return body.request_id

    async def build(
        self, body: ResponsesBody, model: ServedModel, at: Arrival, metrics: CallMetrics
    ) -> EventStream | Collected:
        asked = wanted(
            body,
            self._context(),
            model,
            at,
            default_max_tokens=body.max_output_tokens,
            logprobs=LOGPROBS in (body.include or ()) or bool(body.top_logprobs),
            top_logprobs=body.top_logprobs or 0,
        )
        messages = await self._conversation(body, at)
        system = [] if body.instructions is None else [_system(body.instructions)]
        prompt = await model.tokenizer.encode_chat([*system, *messages], model.context_length)
        call_id = f"resp_{draw_id()}"
        requests = requests_for(model, [prompt], asked, call_id, at, "input")
        created = int(time.time())
        head = Head(call_id, created, asked.logprobs, False, model.tokenizer.token_bytes)
        frame = Frame(
            _response(body, model, head),
            f"msg_{draw_id()}",
            self._keep(messages, at) if body.store is not False else None,
        )
        kind = ResponseStream if body.stream else ResponseDocument
        return kind(model, requests, asked.text, metrics, head=head, frame=frame)

    async def _conversation(self, body: ResponsesBody, at: Arrival) -> Messages:
        """All turns so far, without instructions: those hold for one response."""
        messages = messages_of(body.input)
        if body.previous_response_id is None:
            return messages
        kept = await self._context().responses.get(body.previous_response_id, at.caller.tenant)
        if kept is None:
            raise InvalidRequestError(
                f"Previous response with id '{body.previous_response_id[:64]}' not found.",
                param="previous_response_id",
            )
        return [*kept.messages, *messages]

    def _keep(self, messages: Messages, at: Arrival) -> Keep | None:
        responses = self._context().responses
        if not responses.keeps:
            return None

        async def keep(response: ResponseObject) -> bool:
            said = response["output"][0]["content"][0]["text"]
            turns = [*messages, {"role": "assistant", "content": said}]
            return await responses.keep(Kept(dict(response), turns), at.caller.tenant)

        return keep


async def stored_response(context: Context, exchange: Exchange) -> tuple[int, Any]:
    """GET and DELETE /v1/responses/{response_id}, without a query. Raises NotFoundError."""
    scope = exchange.scope
    if scope["query_string"]:
        name = scope["query_string"].decode("latin-1").partition("=")[0][:64]
        raise UnsupportedError(
            f"{name!r} is not supported here yet; a kept response comes whole.", param=name
        )
    response_id: str = scope["path_params"]["response_id"]
    tenant = caller_of(scope).tenant
    if scope["method"] == "DELETE":
        if await context.responses.delete(response_id, tenant):
            return 200, {"id": response_id, "object": "response.deleted", "deleted": True}
    elif (kept := await context.responses.get(response_id, tenant)) is not None:
        return 200, kept.document
    raise NotFoundError(f"Response with id '{response_id[:64]}' not found.")


def _system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def _response(body: ResponsesBody, model: ServedModel, head: Head) -> ResponseObject:
    """The response while there is no output yet."""
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": model.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "background": False,
        "reasoning": {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }
