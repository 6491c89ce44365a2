"""Who speaks for one request: its attempts, and the order in which its tokens reach the client.

The gateway owns each request. It numbers placements (attempts) and takes rows of the current one
only, so two workers can never both speak. A failed attempt is followed by another that starts from
the tokens given so far, so the client sees each position once, in order, whatever happens. Pure: no
I/O and no clock; the sink is called synchronously.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from types import MappingProxyType

from baton.core.errors import BatonError, CancelledRequestError, DeadlineExceededError
from baton.core.request import Request, TokenLogprobs
from baton.gateway.generation import TokenSink
from baton.wire.frames import finish_of


class Side(Enum):
    """A worker's part in an attempt."""

    ALONE = "alone"
    SOURCE = "source"
    TARGET = "target"


class Verdict(Enum):
    """What follows from a failure."""

    NOTHING = "nothing"
    RETRY = "retry"
    ENDED = "ended"


class _Choice:
    """A choice that goes on: its tokens, and rows that came before their turn."""

    __slots__ = ("held", "num_at_begin", "tokens")

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.tokens = list(tokens)
        self.num_at_begin = len(tokens)
        # Position to (token, flags, logprobs).
        self.held: dict[int, tuple[int, int, TokenLogprobs | None]] = {}


class Ownership:
    """The state of one request from its submission to `sink.on_end`.

    `max_attempts` bounds attempts in a row that bring no token.
    """

    __slots__ = (
        "_adopted",
        "_barren",
        "_live",
        "_max_attempts",
        "_num_at_begin",
        "_sink",
        "attempt",
        "ended",
        "request",
    )

    def __init__(self, request: Request, sink: TokenSink, max_attempts: int) -> None:
        self.request = request
        self.attempt = 0
        self.ended = False
        self._sink = sink
        self._max_attempts = max_attempts
        self._barren = 0
        self._num_at_begin = 0
        self._adopted = False
        # Choices that have not ended.
        self._live = {index: _Choice(output) for index, output in request.outputs.items()}

    @property
    def is_adopted(self) -> bool:
        """The current attempt's target has the KV."""
        return self._adopted

    @property
    def num_tokens(self) -> int:
        """Tokens that an attempt begun now has to compute, or find in a cache."""
        # A prompt shared by several choices counts once, as they share its blocks.
        return len(self.request.prompt) + sum(len(c.tokens) for c in self._live.values())

    @property
    def num_choices(self) -> int:
        """Choices that have not ended."""
        return len(self._live)

    def begin(self) -> Request:
        """Start the next attempt: what is to be submitted, with the output so far."""
        assert not self.ended, "an ended request has no attempts"
        self.attempt += 1
        self._adopted = False
        self._num_at_begin = len(self._live)
        for choice in self._live.values():
            choice.held.clear()
            choice.num_at_begin = len(choice.tokens)
        if self.attempt == 1:
            return self.request
        outputs = {index: tuple(choice.tokens) for index, choice in self._live.items()}
        return replace(self.request, outputs=MappingProxyType(outputs))

    def row(
        self,
        attempt: int,
        index: int,
        position: int,
        token: int,
        flags: int,
        logprobs: TokenLogprobs | None,
    ) -> bool:
        """Take a token; True when the request ended with it (`on_end` has been called).

        Rows of other attempts, of ended choices and repeated ones are dropped; those that come
        early (the target may be faster than the source) wait for their turn.
        """
        if attempt != self.attempt:
            return False
        choice = self._live.get(index)
        if choice is None:
            return False
        tokens = choice.tokens
        if position != len(tokens):
            if position > len(tokens):
                choice.held[position] = (token, flags, logprobs)
            return False
        tokens.append(token)
        finish = finish_of(flags) if flags else None
        if self._sink.on_token(index, token, logprobs, finish) or flags:
            return self._end_choice(index)
        return self._release(index, choice) if choice.held else False

    def _release(self, index: int, choice: _Choice) -> bool:
        """Deliver the rows whose turn has come."""
        while not self.ended and (early := choice.held.pop(len(choice.tokens), None)) is not None:
            token, flags, logprobs = early
            choice.tokens.append(token)
            finish = finish_of(flags) if flags else None
            if self._sink.on_token(index, token, logprobs, finish) or flags:
                return self._end_choice(index)
        return False

    def _end_choice(self, index: int) -> bool:
        # The sink may have cancelled the request meanwhile.
        self._live.pop(index, None)
        if self._live or self.ended:
            return False
        self._end(None)
        return True

    def scheduled(self, attempt: int, side: Side, cached_tokens: int) -> None:
        """A worker has begun. A target begins when the KV is its own."""
        if attempt != self.attempt or self.ended:
            return
        if side is Side.TARGET:
            self._adopted = True
        else:
            self._sink.on_cached_tokens(cached_tokens)

    def handed_off(self, attempt: int) -> None:
        """Either side says that the target has adopted the sequences."""
        if attempt == self.attempt:
            self._adopted = True

    def failed(
        self, attempt: int, side: Side, error: BatonError, *, retryable: bool, now: float
    ) -> Verdict:
        """A worker gave up, or is lost. After RETRY the caller stops the attempt's other side."""
        if attempt != self.attempt or self.ended:
            return Verdict.NOTHING
        if side is Side.SOURCE and self._adopted and self._has_first_tokens():
            # All that it had to give has arrived.
            return Verdict.NOTHING
        self._barren = 0 if self._has_progress() else self._barren + 1
        if now >= self.request.deadline:
            self.expire()
        elif not retryable or self._barren >= self._max_attempts:
            self._end(error)
        else:
            return Verdict.RETRY
        return Verdict.ENDED

    def _has_first_tokens(self) -> bool:
        return all(len(c.tokens) > c.num_at_begin for c in self._live.values())

    def _has_progress(self) -> bool:
        return len(self._live) < self._num_at_begin or any(
            len(c.tokens) > c.num_at_begin for c in self._live.values()
        )

    def expire(self) -> None:
        """The deadline has passed. Idempotent."""
        self._end(
            DeadlineExceededError(
                "the request's deadline passed; ask for fewer tokens or raise the deadline"
            )
        )

    def cancel(self, reason: str) -> None:
        """The client is gone, or the gateway stops. Idempotent."""
        self._end(CancelledRequestError(reason))

    def fail(self, error: BatonError) -> None:
        """End it with an error that no attempt can mend. Idempotent."""
        self._end(error)

    def _end(self, error: BatonError | None) -> None:
        if self.ended:
            return
        self.ended = True
        self._live.clear()
        self._sink.on_end(error)
