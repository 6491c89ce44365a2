"""KServe's Open Inference Protocol (version 2) over gRPC, for text models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import baton
from baton.core.errors import BatonError
from baton.gateway.context import Context
from baton.gateway.http.asgi import draw_id
from baton.gateway.request_id import is_sane
from baton.gateway.rpc.inference import InferenceServicer, ServicerContext, abort
from baton.gateway.rpc.keys import caller_of_call, identify_again
from baton.gateway.rpc.kserve_tensors import (
    generate_request,
    includes_prompt,
    infer_response,
    model_metadata,
)
from baton.v1 import inference_pb2, kserve_pb2, kserve_pb2_grpc

SERVICE = kserve_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
# Requests of one stream that are answered at once; it is not read on before one of them ends.
MAX_CONCURRENT = 64

Response = inference_pb2.GenerateResponse
Write = Callable[[kserve_pb2.ModelStreamInferResponse], Awaitable[None]]


class KServeServicer(kserve_pb2_grpc.GRPCInferenceServiceServicer):
    """Its requests become those of Generate, whose life and limits they share."""

    def __init__(self, context: Context, inference: InferenceServicer) -> None:
        self._context = context
        self._inference = inference

    async def ServerLive(
        self, _: kserve_pb2.ServerLiveRequest, __: ServicerContext
    ) -> kserve_pb2.ServerLiveResponse:
        return kserve_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _: kserve_pb2.ServerReadyRequest, __: ServicerContext
    ) -> kserve_pb2.ServerReadyResponse:
        return kserve_pb2.ServerReadyResponse(ready=self._context.unready() is None)

    async def ModelReady(
        self, request: kserve_pb2.ModelReadyRequest, _: ServicerContext
    ) -> kserve_pb2.ModelReadyResponse:
        name = request.name
        ready = name in self._context.models and self._context.shortage(name) is None
        return kserve_pb2.ModelReadyResponse(ready=ready)

    async def ServerMetadata(
        self, _: kserve_pb2.ServerMetadataRequest, __: ServicerContext
    ) -> kserve_pb2.ServerMetadataResponse:
        return kserve_pb2.ServerMetadataResponse(name="baton", version=baton.__version__)

    async def ModelMetadata(
        self, request: kserve_pb2.ModelMetadataRequest, call: ServicerContext
    ) -> kserve_pb2.ModelMetadataResponse:
        try:
            return model_metadata(self._context.model(request.name).name)
        except BatonError as error:
            await abort(call, error)

    async def ModelInfer(
        self, request: kserve_pb2.ModelInferRequest, call: ServicerContext
    ) -> kserve_pb2.ModelInferResponse:
        whole = _Whole()
        try:
            wanted = generate_request(request)
            caller = caller_of_call(self._context.access)
            request_id = request.id if is_sane(request.id) else draw_id()
            await self._inference.generate(wanted, call, request_id, whole.take, caller)
            prompt = wanted.text if includes_prompt(request) else ""
        except BatonError as error:
            await abort(call, error)
        return infer_response(request, prompt + whole.text, whole.finish, whole.usage)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[kserve_pb2.ModelInferRequest], call: ServicerContext
    ) -> None:
        room = asyncio.Semaphore(MAX_CONCURRENT)
        # gRPC takes one message at a time.
        writing = asyncio.Lock()

        async def write(message: kserve_pb2.ModelStreamInferResponse) -> None:
            async with writing:
                await call.write(message)

        async def serve(request: kserve_pb2.ModelInferRequest) -> None:
            try:
                await self._serve_streamed(request, call, write)
            finally:
                room.release()

        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                await room.acquire()
                tasks.create_task(serve(request))

    async def _serve_streamed(
        self,
        request: kserve_pb2.ModelInferRequest,
        call: ServicerContext,
        write: Write,
    ) -> None:
        """Pieces of one answer; its error is a message, as others share the stream."""

        async def take(response: Response) -> None:
            delta = response.delta
            usage = response.usage if response.HasField("usage") else None
            piece = infer_response(request, delta.text, delta.finish_reason, usage)
            await write(kserve_pb2.ModelStreamInferResponse(infer_response=piece))

        try:
            caller = identify_again(self._context.access, call)
            wanted = generate_request(request)
            if includes_prompt(request):
                await take(Response(delta=inference_pb2.ChoiceDelta(text=wanted.text)))
            request_id = request.id if is_sane(request.id) else draw_id()
            await self._inference.generate(wanted, call, request_id, take, caller)
        except BatonError as error:
            await write(
                kserve_pb2.ModelStreamInferResponse(
                    error_message=error.message,
                    infer_response=kserve_pb2.ModelInferResponse(
                        model_name=request.model_name, id=request.id
                    ),
                )
            )


class _Whole:
    """An answer put together."""

    def __init__(self) -> None:
        self.text = ""
        self.finish = 0
        self.usage: inference_pb2.Usage | None = None

    async def take(self, response: Response) -> None:
        if response.HasField("usage"):
            self.usage = response.usage
        else:
            self.text += response.delta.text
            self.finish = response.delta.finish_reason or self.finish
