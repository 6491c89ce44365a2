"""An answer as a stream of gRPC messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from baton.core.errors import OverloadedError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.answer.base import Answer
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.api.prepare import ServedModel
from baton.v1 import inference_pb2

MAX_UNSENT_TOKENS = 2**16
"""A client that reads so slowly that more than this waits for it is cut off."""


class RpcAnswer(Answer):
    """Collects what comes while a message is on its way: one delta for each choice."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        request_id: str,
    ) -> None:
        super().__init__(model, requests, text, metrics)
        self.request_id = request_id
        self._unsent: dict[int, inference_pb2.ChoiceDelta] = {}
        self._num_unsent = 0

    def on_token(
        self,
        output: ChoiceOutput,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> None:
        self.metrics.token(output)
        delta = self._unsent.get(output.index)
        if delta is None:
            if not self._unsent:
                self.wake()
            delta = self._unsent[output.index] = inference_pb2.ChoiceDelta(index=output.index)
        delta.token_ids.append(token)
        self._num_unsent += 1 if logprobs is None else 1 + len(logprobs.top_tokens)
        if self._num_unsent > MAX_UNSENT_TOKENS:
            self.fail(OverloadedError("the client reads too slowly"))
        if logprobs is not None:
            delta.logprobs.add(
                token_id=token,
                logprob=logprobs.logprob,
                top_token_ids=logprobs.top_tokens,
                top_logprobs=logprobs.top_logprobs,
            )
        if text := output.push(token, finish):
            delta.text += text
        if output.finish is not None:
            delta.finish_reason = int(output.finish)  # type: ignore[assignment]

    async def messages(self) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """All messages to the end, the usage last. Raises the answer's error."""
        while True:
            while not self._unsent and not self.over:
                await self.wait()
            over = self.over
            deltas, self._unsent = self._unsent, {}
            self._num_unsent = 0
            for delta in deltas.values():
                yield inference_pb2.GenerateResponse(request_id=self.request_id, delta=delta)
            if over:
                break
        if self.error is not None:
            raise self.error
        if self.gone:
            return
        usage = self.usage()
        yield inference_pb2.GenerateResponse(
            request_id=self.request_id,
            usage=inference_pb2.Usage(
                prompt_tokens=usage["prompt_tokens"],
                completion_tokens=usage["completion_tokens"],
                cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            ),
        )
