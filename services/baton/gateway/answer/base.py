"""The answer to one API call while it is made: tokens of all its choices come in here.

Subclasses render (JSON, server-sent events, gRPC). Everything happens on the event loop; the
dispatcher calls in, `wait` lets the call's own task sleep until there is something to do.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.logprobs import TokenBytes
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.api.prepare import ServedModel
from baton.gateway.api.schemas import Usage
from baton.gateway.generation import Generator, Ticket
from baton.gateway.keys.limits import Reservation
from baton.gateway.records.request_record import RequestRecord


class Head(NamedTuple):
    """What the documents of an answer begin with, and what details they show.

    `token_bytes` names tokens among the logprobs.
    """

    id: str
    created: int
    logprobs: bool
    token_ids: bool
    token_bytes: TokenBytes


class PromptSink:
    """Takes the tokens of one prompt's request, and hands them to the answer until it ends.

    Letting go of the answer at the end spares the garbage collector a cycle for every call.
    """

    __slots__ = ("_answer", "cached_tokens", "outputs", "request")

    def __init__(self, answer: Answer, request: Request, outputs: Sequence[ChoiceOutput]) -> None:
        self._answer: Answer | None = answer
        self.request = request
        self.outputs = outputs
        self.cached_tokens = 0

    @property
    def stream_interval(self) -> int:
        return 1 if self._answer is None else self._answer.stream_interval

    def on_token(
        self,
        choice: int,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> bool:
        output = self.outputs[choice]
        answer = self._answer
        if output.finish is not None or answer is None:
            return True
        answer.on_token(output, token, logprobs, finish)
        return output.finish is not None

    def on_cached_tokens(self, cached_tokens: int) -> None:
        # If the attempt is a replay, it finds the answer so far in the cache, too.
        self.cached_tokens = min(cached_tokens, len(self.request.prompt))

    def on_end(self, error: BatonError | None) -> None:
        answer = self.detach()
        if answer is not None:
            answer.on_prompt_end(self, error)

    def detach(self) -> Answer | None:
        """Take no more. Returns the answer, None if that was so already."""
        answer, self._answer = self._answer, None
        return answer


class Answer(ABC):
    """State and life of one call's answer.

    It is over when `complete` (all choices have finished), `error` is set, or the client is `gone`.
    """

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
    ) -> None:
        self.model = model
        # What the client calls it, in `x-request-id`.
        self.request_id = ""
        # Room in its caller's limits, if there are any.
        self.reservation: Reservation | None = None
        self.error: BatonError | None = None
        self.gone = False
        # Something has been sent, so that an error can no longer have a status of its own.
        self.has_begun = False
        self.sinks: list[PromptSink] = []
        for request in requests:
            first = len(self.sinks) * request.num_choices
            outputs = [
                ChoiceOutput(
                    first + choice,
                    model.tokenizer.detokenizer(request.prompt, text.skip_special_tokens),
                    text,
                    request.sampling.min_tokens,
                )
                for choice in range(request.num_choices)
            ]
            self.sinks.append(PromptSink(self, request, outputs))
        self.metrics = metrics
        self._num_open = len(self.sinks)
        self._tickets: list[Ticket] = []
        self._waiter: asyncio.Future[None] | None = None

    @abstractmethod
    def on_token(
        self,
        output: ChoiceOutput,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> None:
        """Push the token into its output and render what that gives."""

    @property
    def complete(self) -> bool:
        return self._num_open == 0

    @property
    def over(self) -> bool:
        return self._num_open == 0 or self.error is not None or self.gone

    def submit(self, generator: Generator) -> None:
        """Submit all prompts, or none. Raises what the generator raises."""
        try:
            for sink in self.sinks:
                self._tickets.append(generator.submit(sink.request, sink))
        except BatonError as error:
            self.fail(error)
            raise

    @property
    def records(self) -> list[RequestRecord]:
        """What has become of its prompts, as far as they were submitted."""
        return [ticket.record for ticket in self._tickets]

    def on_prompt_end(self, sink: PromptSink, error: BatonError | None) -> None:
        """A prompt's request is over: with an error the whole call is."""
        if error is None and any(output.finish is None for output in sink.outputs):
            error = BatonError("internal error: the answer ended early")
        if error is not None:
            self.fail(error)
            return
        self._num_open -= 1
        if self._num_open == 0:
            self.on_complete()
            self.wake()

    def on_complete(self) -> None:  # noqa: B027 - most have nothing to add
        """All choices have finished."""

    async def conclude(self) -> None:  # noqa: B027 - most have nothing to add
        """It is complete, and its client is about to be told so."""

    def fail(self, error: BatonError) -> None:
        """End with an error, unless it is over already."""
        if not self.over:
            self.error = error
            self.cancel("the call failed")
            self.wake()

    def client_gone(self) -> None:
        """Nobody reads any more."""
        if not self.over:
            self.gone = True
            self.cancel("the client went away")
            self.wake()

    def cancel(self, reason: str) -> None:
        """Stop the work of all prompts that have not ended."""
        for sink, ticket in zip(self.sinks, self._tickets, strict=False):
            if sink.detach() is not None:
                ticket.cancel(reason)

    def wake(self) -> None:
        """Let the task in `wait` go on."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Sleep until `wake`. One task only, which looks for work before each call."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def stream_interval(self) -> int:
        """Tokens that may come together; more than 1 where nobody sees them one by one."""
        return 1

    @property
    def num_choices(self) -> int:
        return sum(len(sink.outputs) for sink in self.sinks)

    @property
    def num_tokens(self) -> int:
        return sum(output.num_tokens for sink in self.sinks for output in sink.outputs)

    def usage(self) -> Usage:
        """Tokens of all prompts and choices so far."""
        prompt_tokens = sum(len(sink.request.prompt) for sink in self.sinks)
        completion_tokens = self.num_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(sink.cached_tokens for sink in self.sinks)
            },
        }


class OpenAnswers:
    """Every answer under way, so that a stopping gateway can wait for them, then end them."""

    def __init__(self) -> None:
        self._open: set[Answer] = set()
        self._idle = asyncio.Event()
        self._closing: BatonError | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._open)

    def add(self, answer: Answer) -> None:
        """Raises the error of `drain` once that has begun."""
        if self._closing is not None:
            raise self._closing
        self._open.add(answer)

    def remove(self, answer: Answer) -> None:
        self._open.discard(answer)
        if not self._open:
            self._idle.set()

    async def drain(self, grace_s: float, error: BatonError) -> None:
        """Take no more, and wait up to `grace_s` seconds; those still open end with `error`."""
        self._closing = error
        if not self._open:
            return
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            for answer in list(self._open):
                answer.fail(error)
