"""Clients that stream without pause and compare each answer with an undisturbed one."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Sequence
from types import TracebackType

from fakes.streams import Answer, Body, ask

# Only so that a stream that stands still for good ends as broken.
_STREAM_S = 240.0


def bodies(model: str, count: int, max_tokens: int = 500) -> list[Body]:
    """Requests with one right answer each: greedy, as long as they may be."""
    return [
        {
            "model": model,
            "prompt": [random.Random(i).randrange(4, 380) for _ in range(20 + 40 * i)],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        for i in range(count)
    ]


def undisturbed(url: str, asked: Sequence[Body]) -> list[list[int]]:
    """The tokens of each answer."""

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*(ask(url, body) for body in asked))

    answers = asyncio.run(all_of_them())
    assert [a.problem for a in answers if not a.is_done] == []
    return [answer.tokens[0] for answer in answers]


class Load:
    """One client for each request, which it sends again as soon as it is answered.

    To be used as a context; its end waits for the answers under way. `broken` then says what each
    answer that was refused, cut off or wrong was like.
    """

    def __init__(self, url: str, asked: Sequence[Body], expected: Sequence[list[int]]) -> None:
        self.broken: list[str] = []
        self.num_done = 0
        self._url = url
        self._asked = asked
        self._expected = expected
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(i) for i in range(len(self._asked))))

    async def _client(self, i: int) -> None:
        while not self._stopping:
            answer = Answer()
            try:
                async with asyncio.timeout(_STREAM_S):
                    await ask(self._url, self._asked[i], answer=answer)
            except (OSError, EOFError, TimeoutError, json.JSONDecodeError) as error:
                answer.problem = repr(error)
            self._judge(i, answer)
            if answer.problem:
                # A service that refuses at once is not asked a thousand times a second.
                await asyncio.sleep(0.5)

    def _judge(self, i: int, answer: Answer) -> None:
        tokens, expected = answer.tokens.get(0, []), self._expected[i]
        if answer.problem or not answer.is_done:
            why = answer.problem or "it ended early"
            self.broken.append(f"client {i} after {len(tokens)} tokens: {why}")
        elif tokens != expected:
            both = enumerate(zip(tokens, expected, strict=False))
            wrong = next((n for n, (got, right) in both if got != right), "the end")
            self.broken.append(f"client {i}: {len(tokens)} tokens, wrong from {wrong} on")
        self.num_done += 1
