"""The gRPC API for applications: InferenceService, health, reflection."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from baton.core.errors import BatonError, InvalidRequestError
from baton.core.settings import GatewaySettings
from baton.gateway import errors, parse
from baton.gateway.admission import MAX_TIMEOUT_S
from baton.gateway.asgi import draw_id
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.context import NO_MODEL, Context
from baton.gateway.openai import DEFAULT_COMPLETION_TOKENS
from baton.gateway.prepare import ServedModel, Wanted, build_requests, cache_ttl_s
from baton.gateway.rpc_answer import RpcAnswer
from baton.gateway.schemas import MAX_CHOICES, MAX_LOGPROBS, MAX_SALT_CHARS
from baton.telemetry import rpc
from baton.telemetry.logging import event
from baton.telemetry.malformed import MalformedInterceptor
from baton.v1 import inference_pb2, inference_pb2_grpc

log = logging.getLogger(__name__)

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_HEALTH_INTERVAL_S = 0.2
# What an error takes to reach the client, at most.
_ANSWER_S = 0.1
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_ROLES = ("system", "developer", "user", "assistant")
# Of messages up to so many times the limit we say ourselves that they are too large; gRPC, which
# has no details to give, of those beyond.
_HARD_LIMIT = 4
# Trailers are limited to 8 KiB in most clients.
_MAX_MESSAGE_CHARS = 2000

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generate and ListModels."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def Generate(self, request: inference_pb2.GenerateRequest, call: ServicerContext) -> None:
        try:
            answer = await self._prepare(request, call)
            await self._serve(answer, call)
        except BatonError as error:
            await abort(call, error)

    async def ListModels(
        self, _: inference_pb2.ListModelsRequest, __: ServicerContext
    ) -> inference_pb2.ListModelsResponse:
        ready = self._context.not_ready() is None
        return inference_pb2.ListModelsResponse(
            models=[
                inference_pb2.Model(id=m.name, max_model_len=m.context_length, ready=ready)
                for m in self._context.models.values()
            ]
        )

    async def _prepare(
        self, request: inference_pb2.GenerateRequest, call: ServicerContext
    ) -> RpcAnswer:
        """Everything before the submission; errors are counted."""
        arrived = time.monotonic()
        series = self._context.series(NO_MODEL, "generate")
        try:
            if request.request_id and not _REQUEST_ID.fullmatch(request.request_id):
                raise InvalidRequestError(
                    "request_id must be 1 to 128 letters, digits or ._:/+=@-", param="request_id"
                )
            model = self._context.model(request.model)
            series = self._context.series(model.name, "generate")
            wanted = _wanted(request, self._context.settings)
            prompt = await _prompt(model, request)
            remaining_s = call.time_remaining()
            timeout_s = self._context.settings.request_timeout_s
            if remaining_s is not None:
                # Our answer says why; it should be there when the client's own clock runs out.
                timeout_s = min(remaining_s - min(_ANSWER_S, 0.1 * remaining_s), MAX_TIMEOUT_S)
            name = draw_id()
            requests = build_requests(model, [prompt], wanted, f"gen-{name}", arrived + timeout_s)
            return RpcAnswer(
                model,
                requests,
                wanted.stops,
                CallMetrics(series, arrived),
                request_id=request.request_id or name,
            )
        except BatonError as error:
            series.ended(error.code)
            raise
        except Exception as bug:
            log.exception(*event("request_failed", request_id=request.request_id))
            series.ended(BatonError.code)
            raise errors.internal(bug) from bug

    async def _serve(self, answer: RpcAnswer, call: ServicerContext) -> None:
        answer.metrics.begin()
        try:
            self._context.answers.add(answer)
            answer.submit(self._context.generator)
            async for message in answer.messages():
                await call.write(message)
        except BatonError as error:
            answer.fail(error)
            raise
        except asyncio.CancelledError:
            # The client cancelled, or its deadline passed.
            answer.client_gone()
            raise
        except Exception as bug:
            log.exception(*event("request_failed", request_id=answer.request_id))
            answer.fail(errors.internal(bug))
            raise errors.internal(bug) from bug
        finally:
            self._context.answers.remove(answer)
            answer.metrics.end(answer, answer.request_id)


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
        messages = []
        for index, message in enumerate(request.chat.messages):
            if message.role not in _ROLES:
                raise InvalidRequestError(
                    f"chat.messages[{index}].role must be one of {', '.join(_ROLES)}.",
                    param=f"chat.messages[{index}].role",
                )
            role = "system" if message.role == "developer" else message.role
            messages.append({"role": role, "content": message.content})
        return await model.tokenizer.encode_chat(messages, model.context_length)
    if kind == "token_ids":
        return list(request.token_ids.ids)
    raise InvalidRequestError("Set one of text, chat and token_ids.", param="prompt")


def _wanted(request: inference_pb2.GenerateRequest, settings: GatewaySettings) -> Wanted:
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
        stops=parse.stops(list(request.stop)),
        cache_ttl_s=cache_ttl_s(request.cache_ttl_ms / 1000, settings.max_cache_ttl_s),
        cache_salt=request.cache_salt,
    )


class RpcServer:
    """The server on its port, from `start` to `stop`. Applications need no token here."""

    def __init__(self, context: Context, host: str, port: int) -> None:
        """Binds. Raises ConfigError naming host and port when they cannot be had."""
        self._context = context
        max_bytes = context.settings.max_body_bytes
        self._server = grpc.aio.server(
            interceptors=[MalformedInterceptor(abort, max_bytes)],
            options=[
                ("grpc.max_receive_message_length", _HARD_LIMIT * max_bytes),
                ("grpc.so_reuseport", 0),
                # Applications may ping every 5 s; one that answers no ping for 20 s is gone.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
        )
        self.port = rpc.listen(self._server, host, port)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._serving: bool | None = None
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            InferenceServicer(context), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept calls."""
        await self._set_health()
        await self._server.start()
        self._watch = asyncio.create_task(self._follow_readiness())

    async def stop(self, grace_s: float) -> None:
        """Accept no more and give open calls `grace_s` seconds. Drain the answers first."""
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _follow_readiness(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            await self._set_health()

    async def _set_health(self) -> None:
        serving = self._context.not_ready() is None
        if serving is self._serving:
            return
        self._serving = serving
        statuses = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", SERVICE):
            await self._health.set(service, statuses.SERVING if serving else statuses.NOT_SERVING)
