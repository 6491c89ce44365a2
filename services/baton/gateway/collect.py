"""An answer that is sent in one piece when it is complete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from starlette.types import Receive, Send

from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.answer import Answer, Head
from baton.gateway.asgi import Headers, send_json
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.logprobs import TokenRecord
from baton.gateway.output import ChoiceOutput
from baton.gateway.prepare import ServedModel


class Collected(Answer):
    """Keeps the texts, and the tokens where `head` asks for details, of all choices."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        head: Head,
    ) -> None:
        super().__init__(model, requests, stops, metrics)
        self.head = head
        self._details = head.logprobs or head.token_ids
        self._texts: list[list[str]] = [[] for sink in self.sinks for _ in sink.outputs]

    def on_token(
        self,
        output: ChoiceOutput,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> None:
        self.metrics.token(output)
        if self._details:
            output.records.append(TokenRecord(token, logprobs, output.num_chars))
        if text := output.push(token, finish):
            self._texts[output.index].append(text)

    def text(self, output: ChoiceOutput) -> str:
        return "".join(self._texts[output.index])

    @abstractmethod
    def document(self) -> Any:
        """The answer as JSON, once it is complete."""

    async def respond(self, send: Send, receive: Receive, headers: Headers) -> None:
        """Wait for the end and send it, unless the client is gone. Raises the answer's error."""
        while not self.over:
            await self.wait()
        if self.error is not None:
            raise self.error
        if not self.gone:
            await send_json(send, 200, self.document(), headers)
