"""A Generator without workers: plays scripted tokens, or lets the test feed them by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.generation import TokenSink
from baton.gateway.records.request_record import RequestRecord

# Output tokens of a choice.
Script = Callable[[Request, int], Sequence[int]]


class FakeTicket:
    """A submitted request: what was asked, what was cancelled, and the sink to feed."""

    def __init__(self, request: Request, sink: TokenSink) -> None:
        self.request = request
        self.sink = sink
        self.record = RequestRecord(request.request_id, len(request.prompt), time.monotonic())
        self.cancelled: str | None = None
        self.ended = False
        self.open = set(request.outputs)
        self.stopped = asyncio.Event()

    def cancel(self, reason: str) -> None:
        if self.cancelled is None and not self.ended:
            self.cancelled = reason
            self.stopped.set()

    def feed(self, token: int, finish: FinishReason | None = None, choice: int = 0) -> None:
        """One token of a choice; ends the request after the last choice's end."""
        if self.cancelled is not None or self.ended or choice not in self.open:
            return
        wanted = self.request.sampling
        logprobs = fake_logprobs(token, wanted.top_logprobs) if wanted.logprobs else None
        if self.sink.on_token(choice, token, logprobs, finish) or finish is not None:
            self.open.discard(choice)
            if not self.open:
                self.end()

    def end(self, error: BatonError | None = None) -> None:
        if self.cancelled is None and not self.ended:
            self.ended = True
            self.sink.on_end(error)


class FakeGenerator:
    """Plays `script` to its end (finish LENGTH at max_tokens, else STOP with `eos`).

    `per_turn` tokens of each choice come in one turn of the loop. Without a script the test feeds
    `tickets` itself. `refusal` is raised by submit; `failure` ends requests after `fail_after`
    tokens.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        eos: int = 1,
        per_turn: int = 1,
        cached_tokens: int = 0,
        pause_s: float = 0.0,
    ) -> None:
        self.tickets: list[FakeTicket] = []
        # Of their sinks, when they were submitted.
        self.intervals: list[int] = []
        self.refusal: BatonError | None = None
        self.refuse_after = 0
        self.failure: BatonError | None = None
        self.fail_after = 0
        self._script = script
        self._eos = eos
        self._per_turn = per_turn
        self._cached_tokens = cached_tokens
        self._pause_s = pause_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._submitted = asyncio.Event()

    @property
    def requests(self) -> list[Request]:
        return [ticket.request for ticket in self.tickets]

    def submit(self, request: Request, sink: TokenSink) -> FakeTicket:
        if self.refusal is not None and len(self.tickets) >= self.refuse_after:
            raise self.refusal
        ticket = FakeTicket(request, sink)
        self.tickets.append(ticket)
        self.intervals.append(sink.stream_interval)
        self._submitted.set()
        if self._script is not None:
            task = asyncio.get_running_loop().create_task(self._play(ticket, self._script))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return ticket

    async def submitted(self, count: int = 1) -> FakeTicket:
        """Wait for the count-th submission."""
        while len(self.tickets) < count:
            self._submitted.clear()
            await self._submitted.wait()
        return self.tickets[count - 1]

    async def _play(self, ticket: FakeTicket, script: Script) -> None:
        await asyncio.sleep(0)
        if self._cached_tokens:
            ticket.sink.on_cached_tokens(self._cached_tokens)
        outputs = {choice: list(script(ticket.request, choice)) for choice in ticket.open}
        limit = ticket.request.sampling.max_tokens
        num_steps = max(map(len, outputs.values())) + 1
        for position in range(num_steps):
            if self.failure is not None and position >= self.fail_after:
                ticket.end(self.failure)
                return
            for choice in sorted(ticket.open):
                tokens = outputs[choice]
                if position < len(tokens):
                    last = position + 1 == limit
                    ticket.feed(tokens[position], FinishReason.LENGTH if last else None, choice)
                else:
                    ticket.feed(self._eos, FinishReason.STOP, choice)
            if ticket.ended or ticket.cancelled is not None:
                return
            if (position + 1) % self._per_turn == 0:
                await asyncio.sleep(self._pause_s)


def fake_logprobs(token: int, num_top: int) -> TokenLogprobs:
    """Logprobs that a test can predict: the sampled token is the likeliest."""
    tops = tuple(token if i == 0 else (token + i) % 256 for i in range(num_top))
    return TokenLogprobs(-0.5, tops, tuple(-0.5 - i for i in range(num_top)))
