"""Answers that nobody reads token by token: workers are told so, and the metrics stay honest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from baton.core.errors import WorkerLostError
from baton.core.request import FinishReason
from baton.gateway.answer import call_metrics
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.output import PLAIN, ChoiceOutput
from fakes.gateway import asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.sink import RecordingSink
from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker

TOKENS = text_tokens("hello world")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**CHAT, "max_tokens": 9},
}


async def interval(path: str, body: dict[str, Any]) -> int:
    """What the answer's generator is asked for."""
    generator = FakeGenerator(lambda _request, _choice: TOKENS)
    async with asgi_client(make_context(generator)) as client:
        response = await client.post(path, json={"model": "tiny"} | body)
    assert response.status_code == 200, response.text
    # What it was while it ran: a sink whose answer is over wants nothing.
    return generator.intervals[0]


@pytest.mark.parametrize("path", PATHS)
async def test_whole_answers_are_gathered_and_streams_are_not(path: str) -> None:
    assert await interval(path, PATHS[path]) > 1000
    assert await interval(path, {**PATHS[path], "stream": True}) == 1


async def test_a_stop_string_is_looked_for_at_each_token() -> None:
    assert await interval("/v1/chat/completions", {**CHAT, "stop": ["."]}) == 1


async def test_workers_are_told_with_each_attempt() -> None:
    workers = [FakeWorker(f"w{i}") for i in range(2)]
    async with TokenPlane(*workers, resume_window_s=3600) as plane:
        sink, _ = plane.submit(sink=RecordingSink(stream_interval=50), max_tokens=3000)
        await sink.wait_tokens(1)
        first = next(worker for worker in workers if worker.submits)
        first.fail_all(WorkerLostError("a test"))
        await plane.until(lambda: sum(len(worker.submits) for worker in workers) == 2)
        submits = [submit for worker in workers for submit in worker.submits]
        assert [submit.stream_interval for submit in submits] == [50, 50]


async def test_gaps_of_tokens_that_came_together_are_their_mean() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with asgi_client(context) as client:
        body = {"model": "tiny", **CHAT}
        task = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        ticket = await generator.submitted()
        for token in TOKENS:
            ticket.feed(token)
        ticket.feed(TOKENS[0], FinishReason.LENGTH)
        assert (await task).status_code == 200

    def sample(name: str, **labels: str) -> float | None:
        name = f"baton_inter_token_latency_seconds_{name}"
        return context.metrics.registry.get_sample_value(name, {"model": "tiny", **labels})

    assert sample("count") == len(TOKENS)
    # All are in one bucket: none shows how tokens happened to arrive.
    bounds = [
        s.labels["le"]
        for family in context.metrics.registry.collect()
        for s in family.samples
        if s.name == "baton_inter_token_latency_seconds_bucket"
    ]
    assert {sample("bucket", le=bound) for bound in bounds} <= {0.0, float(len(TOKENS))}


async def test_tokens_that_are_held_back_do_not_look_like_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1.0
    monkeypatch.setattr(call_metrics.time, "monotonic", lambda: now)
    context = make_context(FakeGenerator())
    metrics = CallMetrics(context.series("tiny", "chat"), arrived=0.0)
    tokenizer = context.models["tiny"].tokenizer
    output = ChoiceOutput(0, tokenizer.detokenizer((), True), PLAIN, 0)
    for now in (1.0, 1.25, 1.25, 1.5):  # noqa: B007
        metrics.token(output, is_alone=False)
    assert metrics.max_gap_s == 0.0
    now = 3.5
    metrics.token(output, is_alone=False)
    assert metrics.max_gap_s == 1.75
