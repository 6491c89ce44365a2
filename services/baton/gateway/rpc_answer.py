"""An answer as a stream of gRPC messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.answer import Answer
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.output import ChoiceOutput
from baton.gateway.prepare import ServedModel
from baton.v1 import inference_pb2


class RpcAnswer(Answer):
    """Collects what comes in a turn of the loop: one delta for each choice that has something."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        request_id: str,
    ) -> None:
        super().__init__(model, requests, stops, metrics)
        self.request_id = request_id
        self._unsent: dict[int, inference_pb2.ChoiceDelta] = {}

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
