"""An answer that is sent in one piece when it is complete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.answer.base import Answer, Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.logprobs import TokenRecord
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.api.prepare import ServedModel
from baton.gateway.http.asgi import send_json
from baton.gateway.http.exchange import Exchange
from baton.gateway.http.flushes import Flushes

# More than come before a worker sends them all the same (`wire.frames.HELD_WAIT_S`).
_GATHERED = 2**16


class Collected(Answer):
    """Keeps the texts, and the tokens where `head` asks for details, of all choices."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
    ) -> None:
        super().__init__(model, requests, text, metrics)
        self.head = head
        self._details = head.logprobs or head.token_ids
        self._has_stops = bool(text.stops)
        self._texts: list[list[str]] = [[] for sink in self.sinks for _ in sink.outputs]

    @property
    def stream_interval(self) -> int:
        # A stop string is found here: the sooner, the fewer tokens are generated behind it. Log
        # probabilities take so long to read that many tokens of them would hold up other streams.
        return 1 if self._has_stops or self.head.logprobs else _GATHERED

    def on_token(
        self,
        output: ChoiceOutput,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> None:
        self.metrics.token(output, is_alone=self.stream_interval == 1)
        if self._details:
            output.records.append(TokenRecord(token, logprobs, output.num_chars))
        if text := output.push(token, finish):
            self._texts[output.index].append(text)

    def text(self, output: ChoiceOutput) -> str:
        return "".join(self._texts[output.index])

    @abstractmethod
    def document(self) -> Any:
        """The answer as JSON, once it is complete."""

    async def respond(self, exchange: Exchange, flushes: Flushes) -> None:
        """Wait for the end and send it, unless the client is gone. Raises the answer's error."""
        del flushes
        while not self.over:
            await self.wait()
        if self.error is not None:
            raise self.error
        if not self.gone:
            await self.conclude()
            document = self.document()
            self.has_begun = True
            await send_json(exchange.send, 200, document, exchange.headers)
