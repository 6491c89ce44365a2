"""A TokenSink that keeps what it hears and checks the promises made to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from baton.core.errors import BatonError
from baton.core.request import FinishReason, TokenLogprobs


class RecordingSink:
    """`stop_after[choice]`: ends that choice itself after so many tokens, as a stop string does.

    Tokens may come in runs of `stream_interval`.
    """

    def __init__(
        self, stop_after: Mapping[int, int] | None = None, stream_interval: int = 1
    ) -> None:
        self.stream_interval = stream_interval
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: list[TokenLogprobs | None] = []
        self.finish: dict[int, FinishReason | None] = {}
        self.cached: list[int] = []
        self.ends: list[BatonError | None] = []
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        self._stop_after = stop_after or {}

    def on_token(
        self,
        choice: int,
        token: int,
        logprobs: TokenLogprobs | None,
        finish: FinishReason | None,
    ) -> bool:
        assert not self.ends, "a token after the end"
        assert choice not in self.finish, "a token after the choice's end"
        tokens = self.tokens.setdefault(choice, [])
        tokens.append(token)
        self.logprobs.append(logprobs)
        stop = len(tokens) == self._stop_after.get(choice)
        if stop or finish is not None:
            self.finish[choice] = finish
        self.changed.set()
        return stop

    def on_cached_tokens(self, cached_tokens: int) -> None:
        assert not self.ends, "cached tokens after the end"
        self.cached.append(cached_tokens)

    def on_end(self, error: BatonError | None) -> None:
        assert not self.ends, "two ends"
        self.ends.append(error)
        self.changed.set()
        self.ended.set()

    async def wait_tokens(self, count: int, choice: int = 0) -> None:
        """Until the choice has at least `count` tokens, or the request has ended."""
        while len(self.tokens.get(choice, ())) < count and not self.ends:
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> BatonError | None:
        await self.ended.wait()
        return self.ends[0]
