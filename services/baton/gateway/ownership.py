"""Who speaks for one request: its attempts, and the order in which its tokens reach the client.

The gateway owns each request. It numbers placements (attempts) and takes rows of the current one
only, so two workers can never both speak. A failed attempt is followed by another that starts from
the tokens given so far, so the client sees each position once, in order, whatever happens. A move
changes the worker inside an attempt: whoever held the KV becomes a source that has only its last
rows to give. Pure: no I/O and no clock; the sink is called synchronously.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, IntEnum
from types import MappingProxyType

from baton.core.errors import (
    BatonError,
    CancelledRequestError,
    DeadlineExceededError,
    WorkerLostError,
)
from baton.core.request import Request, TokenLogprobs
from baton.gateway.generation import TokenSink
from baton.wire.frames import finish_of


class Side(Enum):
    """A worker's part in an attempt."""

    ALONE = "alone"
    SOURCE = "source"
    TARGET = "target"
    # Is to take over what another one decodes now; its target once it has.
    HEIR = "heir"


class Verdict(Enum):
    """What follows from a failure. WAIT: ask again later whether the target has adopted."""

    NOTHING = "nothing"
    WAIT = "wait"
    RETRY = "retry"
    ENDED = "ended"


class Progress(IntEnum):
    """What a row has brought about; false while the request goes on."""

    GOES_ON = 0
    ENDED = 1
    # Nobody is left who could give what is missing before this row.
    GAP = 2


_GOES_ON = Progress.GOES_ON


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

    `max_attempts` bounds attempts in a row that bring no token, those apart whose worker left.
    """

    __slots__ = (
        "_adopted",
        "_barren",
        "_is_moved",
        "_live",
        "_max_attempts",
        "_num_at_begin",
        "_num_ended",
        "_sink",
        "_source_is_done",
        "_told_cached",
        "attempt",
        "ended",
        "is_complete",
        "request",
    )

    def __init__(self, request: Request, sink: TokenSink, max_attempts: int) -> None:
        self.request = request
        self.attempt = 0
        self.ended = False
        # Each choice has ended by itself.
        self.is_complete = False
        self._sink = sink
        self._max_attempts = max_attempts
        self._barren = 0
        self._num_at_begin = 0
        # Tokens of the choices that have ended.
        self._num_ended = 0
        self._adopted = False
        # The one who adopted took over from another decoder.
        self._is_moved = False
        # Only the target speaks from now on.
        self._source_is_done = False
        self._told_cached = False
        # Choices that have not ended.
        self._live = {index: _Choice(output) for index, output in request.outputs.items()}

    @property
    def stream_interval(self) -> int:
        """How many tokens its sink wants at a time."""
        return self._sink.stream_interval

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

    @property
    def is_movable(self) -> bool:
        """One choice, from the attempt's begin on, which is being decoded."""
        return self._num_at_begin == 1 and len(self._live) == 1 and self._has_first_tokens()

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the choices that have not ended."""
        return sum(len(c.tokens) for c in self._live.values())

    @property
    def num_generated(self) -> int:
        """Output tokens so far of all choices, also after the end."""
        return self._num_ended + self.num_output_tokens

    @property
    def only_output(self) -> Sequence[int]:
        """Tokens so far of a request's only choice; none where there are several."""
        if self.request.num_choices > 1 or not self._live:
            return ()
        (choice,) = self._live.values()
        return choice.tokens

    def begin(self) -> Request:
        """Start the next attempt: what is to be submitted, with the output so far."""
        assert not self.ended, "an ended request has no attempts"
        self.attempt += 1
        self._adopted = self._is_moved = self._source_is_done = False
        self._num_at_begin = len(self._live)
        for choice in self._live.values():
            choice.held.clear()
            choice.num_at_begin = len(choice.tokens)
        if self.attempt == 1:
            return self.request
        return self.so_far()

    def so_far(self) -> Request:
        """The request with the output that it has: what an heir is to be submitted."""
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
    ) -> Progress:
        """Take a token; ENDED when the request ended with it (`on_end` has been called).

        Rows of other attempts, of ended choices and repeated ones are dropped; those that come
        early (the target may be faster than the source) wait for their turn.
        """
        if attempt != self.attempt:
            return _GOES_ON
        choice = self._live.get(index)
        if choice is None:
            return _GOES_ON
        tokens = choice.tokens
        if position != len(tokens):
            if position > len(tokens):
                choice.held[position] = (token, flags, logprobs)
                if self._source_is_done:
                    return Progress.GAP
            return _GOES_ON
        tokens.append(token)
        finish = finish_of(flags) if flags else None
        if self._sink.on_token(index, token, logprobs, finish) or flags:
            return self._end_choice(index)
        return self._release(index, choice) if choice.held else _GOES_ON

    def _release(self, index: int, choice: _Choice) -> Progress:
        """Deliver the rows whose turn has come."""
        while not self.ended and (early := choice.held.pop(len(choice.tokens), None)) is not None:
            token, flags, logprobs = early
            choice.tokens.append(token)
            finish = finish_of(flags) if flags else None
            if self._sink.on_token(index, token, logprobs, finish) or flags:
                return self._end_choice(index)
        return _GOES_ON

    def _end_choice(self, index: int) -> Progress:
        # The sink may have cancelled the request meanwhile.
        ended = self._live.pop(index, None)
        if ended is not None:
            self._num_ended += len(ended.tokens)
        if self._live or self.ended:
            return _GOES_ON
        self._end(None)
        return Progress.ENDED

    def scheduled(self, attempt: int, side: Side, cached_tokens: int) -> None:
        """A worker has begun. A target begins when the KV is its own."""
        if attempt != self.attempt or self.ended:
            return
        if side is Side.TARGET:
            self._adopted = True
        elif not self._told_cached:
            # A replay finds in the cache what the client had to wait for the first time.
            self._told_cached = True
            self._sink.on_cached_tokens(cached_tokens)

    def handed_off(self, attempt: int, side: Side) -> None:
        """Either side says that the target has adopted the sequences."""
        if attempt != self.attempt:
            return
        self._adopted = True
        if side is Side.SOURCE:
            # Its rows came before.
            self._source_is_done = True

    def taken_over(self, attempt: int) -> None:
        """The heir has adopted: it is the target now, and who decoded before it the source."""
        if attempt == self.attempt:
            self._adopted = self._is_moved = True
            self._source_is_done = False

    def failed(
        self, attempt: int, side: Side, error: BatonError, *, retryable: bool, now: float
    ) -> Verdict:
        """A worker gave up. After RETRY the caller stops the attempt's other parts.

        The caller keeps an heir's failure to itself: the request goes on where it is.
        """
        if attempt != self.attempt or self.ended:
            return Verdict.NOTHING
        if side is Side.SOURCE and self._adopted:
            self._source_is_done = True
            if self._source_gave_all():
                return Verdict.NOTHING
        return self._fail(error, retryable=retryable, now=now)

    def lost(self, attempt: int, side: Side, error: BatonError, *, now: float) -> Verdict:
        """A worker is gone. WAIT for a source that may have handed over before: its target knows,
        so ask with `failed` a moment later.
        """
        is_current = attempt == self.attempt and not self.ended
        may_have_committed = side is Side.SOURCE and not self._adopted and self._has_first_tokens()
        if is_current and may_have_committed:
            return Verdict.WAIT
        return self.failed(attempt, side, error, retryable=True, now=now)

    def leave(self, attempt: int, side: Side) -> Verdict:
        """A worker is about to go: RETRY, unless it has nothing more to give. Nobody failed."""
        is_current = attempt == self.attempt and not self.ended
        if not is_current or (side is Side.SOURCE and self._adopted):
            return Verdict.NOTHING
        return Verdict.RETRY

    def gap(self, attempt: int, error: BatonError, *, now: float) -> Verdict:
        """After Progress.GAP: the attempt cannot go on."""
        if attempt != self.attempt or self.ended:
            return Verdict.NOTHING
        return self._fail(error, retryable=True, now=now)

    def _fail(self, error: BatonError, *, retryable: bool, now: float) -> Verdict:
        if self._has_progress():
            self._barren = 0
        elif not (isinstance(error, WorkerLostError) and error.left):
            self._barren += 1
        if now >= self.request.deadline:
            self.expire()
        elif not retryable or self._barren >= self._max_attempts:
            self._end(error)
        else:
            return Verdict.RETRY
        return Verdict.ENDED

    def _source_gave_all(self) -> bool:
        """As far as can be told now. (After a move the target's first row tells, see GAP.)"""
        if self._is_moved:
            return not any(
                position > len(choice.tokens)
                for choice in self._live.values()
                for position in choice.held
            )
        return self._has_first_tokens()

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
        self.is_complete = error is None
        self._num_ended += self.num_output_tokens
        self._live.clear()
        self._sink.on_end(error)
