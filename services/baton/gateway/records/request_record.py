"""What is noted of one request while it runs: its placements, handoffs and moves, and when.

The hooks are on the way of every request, so they note instants and numbers and no more; `explain`
makes documents of them, for the few that somebody asks for. Instants are the gateway's clock, when
it heard of a thing. Nothing here holds a prompt's or an answer's text or tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from baton.core.errors import BatonError
from baton.v1 import session_pb2

# Of a request that is moved back and forth, the first ones tell enough.
MAX_MOVES = 16
MAX_ATTEMPTS = 16
_MAX_MESSAGE_CHARS = 300


class Explained(Protocol):
    """A router's choice, which can say what it weighed."""

    def to_json(self) -> Mapping[str, Any]: ...


class Failure(NamedTuple):
    """Why an attempt came to nothing. `side` as `ownership.Side` has it."""

    at: float
    worker: str
    side: str
    code: str
    message: str


class Handoff(NamedTuple):
    """Where the time of a handoff went, as its source tells; seconds and bytes."""

    grant_wait_s: float
    transfer_s: float
    verify_s: float
    exposed_s: float
    num_bytes: int
    num_hidden_bytes: int
    transport: str


class FirstStep(NamedTuple):
    """The target's part of a handoff's time, in seconds."""

    offer_wait_s: float
    first_step_s: float


class MovedSequence(NamedTuple):
    """A move of the running sequence that ended; `failure` is the code of an error, or empty."""

    began_at: float
    ended_at: float
    origin: str
    heir: str
    reason: str
    failure: str


class Attempt:
    """One placement. `prefill` is empty where the decode worker computes the prompt itself."""

    __slots__ = (
        "adopted_at",
        "cached_tokens",
        "choice",
        "decode",
        "failure",
        "first_step",
        "handoff",
        "number",
        "placed_at",
        "prefill",
        "queued_at",
        "scheduled_at",
    )

    def __init__(
        self,
        number: int,
        queued_at: float,
        placed_at: float,
        prefill: str,
        decode: str,
        choice: Explained | None,
    ) -> None:
        self.number = number
        self.queued_at = queued_at
        self.placed_at = placed_at
        self.prefill = prefill
        self.decode = decode
        self.choice = choice
        # When whoever computes the prompt began, and what it found in its cache; 0 before.
        self.scheduled_at = 0.0
        self.cached_tokens = 0
        # When the target had the KV.
        self.adopted_at = 0.0
        self.handoff: Handoff | None = None
        self.first_step: FirstStep | None = None
        self.failure: Failure | None = None


class RequestRecord:
    """The notes on one request. Events may come twice (sessions resume): the first one counts."""

    __slots__ = (
        "attempts",
        "moves",
        "num_dropped",
        "num_prompt_tokens",
        "queued_at",
        "request_id",
        "submitted_at",
    )

    def __init__(self, request_id: str, num_prompt_tokens: int, now: float) -> None:
        self.request_id = request_id
        self.num_prompt_tokens = num_prompt_tokens
        self.submitted_at = now
        # When it began to wait for a worker, the last time that it did.
        self.queued_at = now
        self.attempts: list[Attempt] = []
        self.moves: list[MovedSequence] = []
        # Attempts and moves beyond the bounds.
        self.num_dropped = 0

    def placed(
        self, now: float, number: int, prefill: str, decode: str, choice: Explained | None
    ) -> None:
        """An attempt has begun on these workers."""
        if len(self.attempts) >= MAX_ATTEMPTS:
            # The first one and the newest tell most.
            del self.attempts[1]
            self.num_dropped += 1
        self.attempts.append(Attempt(number, self.queued_at, now, prefill, decode, choice))

    def scheduled(self, now: float, cached_tokens: int, age_s: float = 0.0) -> None:
        """The worker that computes the prompt has begun: `age_s` ago, as it says."""
        attempt = self.attempts[-1]
        if not attempt.scheduled_at:
            attempt.scheduled_at = min(now, max(attempt.placed_at, now - age_s))
            attempt.cached_tokens = cached_tokens

    def adopted(self, now: float) -> None:
        """One side of the handoff says that the target has the KV."""
        attempt = self.attempts[-1]
        if not attempt.adopted_at:
            attempt.adopted_at = now

    def handed_off(self, timing: session_pb2.HandoffTiming) -> None:
        """The source tells where the time went."""
        self.attempts[-1].handoff = Handoff(
            timing.grant_wait_s,
            timing.transfer_s,
            timing.verify_s,
            timing.exposed_s,
            timing.bytes,
            timing.hidden_bytes,
            timing.transport,
        )

    def first_step(self, timing: session_pb2.HandoffTiming) -> None:
        """The target has gone on from what it was handed."""
        self.attempts[-1].first_step = FirstStep(timing.offer_wait_s, timing.first_step_s)

    def failed(self, now: float, worker: str, side: str, error: BatonError) -> None:
        """A worker gave the attempt up, or is gone. The first failure is the cause of the rest."""
        attempt = self.attempts[-1]
        if attempt.failure is None:
            message = error.message[:_MAX_MESSAGE_CHARS]
            attempt.failure = Failure(now, worker, side, error.code, message)

    def moved(self, move: MovedSequence) -> None:
        """A move has ended."""
        if len(self.moves) < MAX_MOVES:
            self.moves.append(move)
        else:
            self.num_dropped += 1
