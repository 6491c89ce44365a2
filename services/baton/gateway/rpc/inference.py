"""The gRPC API for applications: InferenceService."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from baton.core.errors import BatonError, InvalidRequestError
from baton.gateway import errors
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.lifecycle import counted, under_way
from baton.gateway.answer.output import TextParams
from baton.gateway.api import parse
from baton.gateway.api.bodies import MAX_CHOICES, MAX_LOGPROBS, MAX_SALT_CHARS
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.openai import DEFAULT_COMPLETION_TOKENS
from baton.gateway.api.prepare import ServedModel, Wanted, build_requests, cache_ttl_s
from baton.gateway.api.wanted import MAX_AFFINITY_CHARS
from baton.gateway.context import Context
from baton.gateway.http.arrival import MAX_TIMEOUT_S
from baton.gateway.http.asgi import draw_id
from baton.gateway.keys.caller import Caller
from baton.gateway.request_id import EXPECTED, is_sane
from baton.gateway.rpc import chat as rpc_chat
from baton.gateway.rpc.answer import RpcAnswer
from baton.gateway.rpc.keys import caller_of_call
from baton.v1 import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
# What an error takes to reach the client, at most.
_ANSWER_S = 0.1
# Metadata in both directions.
REQUEST_ID = "x-request-id"
# Trailers are limited to 8 KiB in most clients.
_MAX_MESSAGE_CHARS = 2000

ServicerContext = grpc.aio.ServicerContext[Any, Any]
Write = Callable[[inference_pb2.GenerateResponse], Awaitable[None]]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generate and ListModels."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def Generate(self, request: inference_pb2.GenerateRequest, call: ServicerContext) -> None:
        request_id = _request_id(request, call)
        await call.send_initial_metadata(((REQUEST_ID, request_id),))
        try:
            caller = caller_of_call(self._context.access)
            await self.generate(request, call, request_id, call.write, caller)
        except BatonError as error:
            await abort(call, error)

    async def generate(
        self,
        request: inference_pb2.GenerateRequest,
        call: ServicerContext,
        request_id: str,
        write: Write,
        caller: Caller,
    ) -> None:
        """Have `write` take the answer's messages. Raises BatonError."""
        answer = await self._prepare(request, call, request_id, caller)
        async with under_way(self._context, answer):
            async for message in answer.messages():
                # A client that reads slowly holds this up, and what comes meanwhile is one message.
                await write(message)

    async def ListModels(
        self, _: inference_pb2.ListModelsRequest, __: ServicerContext
    ) -> inference_pb2.ListModelsResponse:
        shortage = self._context.shortage
        return inference_pb2.ListModelsResponse(
            models=[
                inference_pb2.Model(
                    id=m.name, max_model_len=m.context_length, ready=shortage(m.name) is None
                )
                for m in self._context.models.values()
            ]
        )

    async def _prepare(
        self,
        request: inference_pb2.GenerateRequest,
        call: ServicerContext,
        request_id: str,
        caller: Caller,
    ) -> RpcAnswer:
        """Everything before the submission; errors are counted."""
        arrived = time.monotonic()
        context = self._context
        with counted(context, "generate", request_id) as intake:
            if request.request_id and request.request_id != request_id:
                raise InvalidRequestError(f"request_id must be {EXPECTED}", param="request_id")
            model = intake.model(request.model)
            wanted = _wanted(request, context)
            prompt = await _prompt(model, request)
            remaining_s = call.time_remaining()
            timeout_s = context.settings.request_timeout_s
            if remaining_s is not None:
                # Our answer says why; it should be there when the client's own clock runs out.
                timeout_s = min(remaining_s - min(_ANSWER_S, 0.1 * remaining_s), MAX_TIMEOUT_S)
            call_id = f"gen-{draw_id()}"
            requests = build_requests(
                model, [prompt], wanted, call_id, arrived + timeout_s, caller=caller
            )
            metrics = CallMetrics(intake.series, arrived)
            answer = RpcAnswer(model, requests, wanted.text, metrics, request_id=request_id)
            if context.access is not None:
                await context.access.reserve(caller, [], answer)
            return answer


def _request_id(request: inference_pb2.GenerateRequest, call: ServicerContext) -> str:
    """The client's, in the message or as HTTP's clients give it, if it is a sane one."""
    given: str | bytes = request.request_id
    if not given:
        given = next((v for k, v in call.invocation_metadata() or () if k == REQUEST_ID), "")
    return given if isinstance(given, str) and is_sane(given) else draw_id()


async def abort(call: ServicerContext, error: BatonError) -> NoReturn:
    """End a call with rich status details."""
    status = errors.rpc_status(error)
    status.message = error.message[:_MAX_MESSAGE_CHARS]
    await call.abort(
        errors.mapping(error).grpc,
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )


async def _prompt(model: ServedModel, request: inference_pb2.GenerateRequest) -> list[int]:
    kind = request.WhichOneof("prompt")
    if kind == "text":
        if not request.text:
            raise InvalidRequestError("text is empty.", param="text")
        return (await model.tokenizer.encode_texts([request.text], model.context_length))[0]
    if kind == "chat":
        if not request.chat.messages:
            raise InvalidRequestError("chat has no messages.", param="chat")
        return await model.tokenizer.encode_chat(
            template_messages(rpc_chat.messages(request.chat)),
            model.context_length,
            rpc_chat.render_options(request.chat),
        )
    if kind == "token_ids":
        return list(request.token_ids.ids)
    raise InvalidRequestError("Set one of text, chat and token_ids.", param="prompt")


def _wanted(request: inference_pb2.GenerateRequest, context: Context) -> Wanted:
    """Absent fields take OpenAI's defaults: 16 tokens, for chats the rest of the context."""
    params = request.params

    def given(name: str) -> Any:
        return getattr(params, name) if params.HasField(name) else None

    if request.n > MAX_CHOICES:
        raise InvalidRequestError(f"n must be at most {MAX_CHOICES}.", param="n")
    if params.top_logprobs > MAX_LOGPROBS:
        raise InvalidRequestError(
            f"top_logprobs must be at most {MAX_LOGPROBS}.", param="top_logprobs"
        )
    if len(request.cache_salt) > MAX_SALT_CHARS:
        raise InvalidRequestError(
            f"cache_salt must have at most {MAX_SALT_CHARS} characters.", param="cache_salt"
        )
    return Wanted(
        default_max_tokens=None
        if request.WhichOneof("prompt") == "chat"
        else DEFAULT_COMPLETION_TOKENS,
        max_tokens=given("max_tokens"),
        temperature=given("temperature"),
        top_p=given("top_p"),
        top_k=given("top_k"),
        min_p=given("min_p"),
        presence_penalty=given("presence_penalty"),
        frequency_penalty=given("frequency_penalty"),
        logit_bias=dict(params.logit_bias),
        min_tokens=given("min_tokens"),
        stop_token_ids=tuple(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        logprobs=params.HasField("top_logprobs"),
        top_logprobs=params.top_logprobs,
        n=request.n or 1,
        seed=request.seed if request.HasField("seed") else None,
        text=TextParams(
            parse.stops(list(request.stop)),
            request.include_stop_in_output,
            not request.keep_special_tokens,
        ),
        cache_ttl_s=cache_ttl_s(request.cache_ttl_ms / 1000, context.settings.max_cache_ttl_s),
        cache_salt=request.cache_salt,
        priority=context.priorities.wanted(request.priority or None),
        affinity=request.session_id[:MAX_AFFINITY_CHARS],
    )
