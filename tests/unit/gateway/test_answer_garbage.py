"""What a call makes goes with it, without the garbage collector."""

from __future__ import annotations

import gc
import weakref

import httpx
import pytest

from baton.core.request import Request
from baton.gateway.answer.base import Answer
from fakes.gateway import http_server, make_context, text_tokens
from fakes.generator import FakeGenerator

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def say(request: Request, choice: int) -> list[int]:
    return text_tokens("abc")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_part_of_no_cycle(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    made: list[weakref.ref[Answer]] = []
    inner = Answer.__init__

    def remember(self: Answer, *args: object) -> None:
        inner(self, *args)  # type: ignore[arg-type]
        made.append(weakref.ref(self))

    monkeypatch.setattr(Answer, "__init__", remember)
    gc.collect()
    gc.disable()
    try:
        async with (
            http_server(make_context(FakeGenerator(say))) as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            for _ in range(3):
                body = {**CHAT, "stream": stream}
                response = await client.post("/v1/chat/completions", json=body)
                assert response.status_code == 200
            # The connection may hold on to its last one.
            assert [ref() for ref in made[:-1]] == [None, None]
    finally:
        gc.enable()
