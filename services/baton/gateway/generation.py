"""The seam between the APIs (OpenAI, gRPC) and the dispatcher that turns requests into tokens.

Everything here runs on the gateway's event loop and returns at once.
"""

from __future__ import annotations

from typing import Protocol

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request, TokenLogprobs
from baton.gateway.records.request_record import RequestRecord


class TokenSink(Protocol):
    """Takes the tokens of one request. Synchronous; must not block and must not raise."""

    @property
    def stream_interval(self) -> int:
        """It has no use for a token alone: they may come in runs of so many; 1: it has."""

    def on_token(
        self,
        choice: int,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> bool:
        """The next token of a choice: in order, without gaps or repeats.

        `finish` is set on a choice's last token. Returns True to end the choice here (a stop
        string): no more tokens of it follow, and when all choices have ended so the dispatcher
        cancels the rest of the work and calls `on_end(None)`.
        """

    def on_cached_tokens(self, cached_tokens: int) -> None:
        """How many prompt tokens came out of a prefix cache when the prompt was first computed."""

    def on_end(self, error: BatonError | None) -> None:
        """Exactly once, last: None when every choice has finished."""


class Ticket(Protocol):
    """A submitted request."""

    @property
    def record(self) -> RequestRecord:
        """What has become of it so far."""

    def cancel(self, reason: str) -> None:
        """Stop it everywhere. Idempotent; afterwards at most one `on_end` and nothing else."""


class Generator(Protocol):
    """What the APIs need from the dispatcher."""

    def submit(self, request: Request, sink: TokenSink) -> Ticket:
        """Queue or place the request. Never calls the sink before it returns.

        Ends it with DeadlineExceededError when its deadline passes. Raises OverloadedError (queue
        full), ModelNotFoundError and UnavailableError (stopping).
        """
