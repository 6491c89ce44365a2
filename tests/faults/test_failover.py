"""Any worker may die under a stream: the client is told what it would have been told without.

Real processes, NIXL, float64; every kind of answer is compared with its undisturbed run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from baton.v1 import inference_pb2, inference_pb2_grpc
from fakes.deployment import Deployment, deployment, wait_for
from fakes.mortal_worker import EXIT_STATUS
from fakes.streams import Answer, Body, ask
from fakes.tiny_folder import tiny_folder

KV_BLOCKS = 4000
TOKENS = 200
COMPLETIONS, CHAT, GENERATE = "/v1/completions", "/v1/chat/completions", "generate"
# Whatever it is told, in a form that can be compared.
Told = Any


def kinds(stop: str) -> dict[str, tuple[str, Body]]:
    """Path, and what the body has beside the prompt. `stop` ends a greedy answer half-way."""
    greedy = {"temperature": 0}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {
        "plain": (COMPLETIONS, {**usage}),
        "whole": (COMPLETIONS, {"n": 2}),
        "several": (COMPLETIONS, {**usage, "n": 3}),
        "logprobs": (COMPLETIONS, {**usage, "logprobs": 3}),
        "chat": (CHAT, {**usage, "logprobs": True, "top_logprobs": 4, "n": 2}),
        "whole chat": (CHAT, {"logprobs": True, "top_logprobs": 2}),
        "stop": (COMPLETIONS, {**usage, **greedy, "stop": [stop], "prompt": STOP_PROMPT}),
        "penalties": (
            COMPLETIONS,
            {**usage, **greedy, "frequency_penalty": 0.7, "presence_penalty": 0.5},
        ),
        "min_tokens": (COMPLETIONS, {**usage, "ignore_eos": False, "min_tokens": TOKENS - 20}),
        "rpc": (GENERATE, {"n": 2}),
    }


STOP_PROMPT = [11, 12, 13, 14]


def body(i: int, path: str, more: Body) -> Body:
    rng = random.Random(i)
    made: Body = {
        "model": "tiny",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        "seed": i,
    }
    if path == CHAT:
        made["messages"] = [{"role": "user", "content": f"Question {i}, hello world?"}]
    else:
        made["prompt"] = [rng.randrange(4, 380) for _ in range(rng.choice([20, 150, 400]))]
    return made | more


async def told(running: Deployment, path: str, wanted: Body) -> Told:
    """All that the client hears, apart from ids, times and how it is cut into chunks."""
    if path == GENERATE:
        return await generated(running.grpc, wanted)
    if not wanted.get("stream"):
        async with httpx.AsyncClient(timeout=100) as client:
            answer = await client.post(running.url + path, json=wanted)
        document = answer.json()
        assert answer.status_code == 200, document
        return rounded([document["choices"], counts(document["usage"])])
    answer = Answer()
    await ask(running.url, wanted, path, answer=answer)
    assert not answer.problem, answer.problem
    assert answer.is_done
    assert answer.usage is not None
    logprobs = {i: merged(found) for i, found in answer.logprobs.items()}
    usage = counts(answer.usage)
    return rounded([answer.tokens, answer.text, answer.finish, logprobs, usage])


async def generated(address: str, wanted: Body) -> Told:
    request = inference_pb2.GenerateRequest(
        model=wanted["model"],
        token_ids=inference_pb2.TokenPrompt(ids=wanted["prompt"]),
        n=wanted["n"],
        seed=wanted["seed"],
        params=inference_pb2.GenerateParams(max_tokens=TOKENS, ignore_eos=True, top_logprobs=2),
    )
    tokens: dict[int, list[Any]] = {}
    finish: dict[int, int] = {}
    usage = 0
    async with grpc.aio.insecure_channel(address) as channel:
        async for response in inference_pb2_grpc.InferenceServiceStub(channel).Generate(request):
            delta = response.delta
            found = tokens.setdefault(delta.index, [])
            found += [*delta.token_ids, *[(p.logprob, *p.top_logprobs) for p in delta.logprobs]]
            if delta.finish_reason:
                finish[delta.index] = delta.finish_reason
            usage = response.usage.completion_tokens
    return rounded([{i: sorted(map(str, rounded(t))) for i, t in tokens.items()}, finish, usage])


def merged(chunks: list[dict[str, Any]]) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = {}
    for chunk in chunks:
        for name, values in chunk.items():
            result.setdefault(name, []).extend(values or ())
    return result


def counts(usage: dict[str, Any]) -> list[int]:
    """Without what came out of a cache, which later runs find warmer."""
    return [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]


def rounded(value: Any) -> Any:
    """Prefill and decode sum in another order: the last bit of a logprob may differ."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    flags = ("--model", str(folder), "--dtype", "float64", "--kv-blocks", str(KV_BLOCKS))
    # Chunked prefill, so that something is left to compute when a prefill worker dies.
    environment = {"BATON_ENGINE__MAX_BATCH_TOKENS": "128"}
    with deployment(*flags, environment=environment) as it:
        it.start_workers(prefill=1, decode=2)
        yield it


@pytest.fixture(scope="module")
def requests(running: Deployment) -> list[tuple[str, Body]]:
    plain = body(0, COMPLETIONS, {"temperature": 0, "prompt": STOP_PROMPT})
    answer = httpx.post(running.url + COMPLETIONS, json=plain, timeout=100).json()
    text = answer["choices"][0]["text"]
    # Some characters that come first after two thirds of the answer, several tokens long.
    at = next(i for i in range(len(text) * 2 // 3, len(text)) if text.find(text[i : i + 6]) == i)
    every = kinds(text[at : at + 6]).values()
    return [(path, body(i, path, more)) for i, (path, more) in enumerate(every)]


async def all_told(running: Deployment, requests: list[tuple[str, Body]]) -> list[Told]:
    return await asyncio.gather(*(told(running, *request) for request in requests))


@pytest.fixture(scope="module")
def expected(running: Deployment, requests: list[tuple[str, Body]]) -> list[Told]:
    found = asyncio.run(all_told(running, requests))
    [stopped] = [f for f, (_, b) in zip(found, requests, strict=True) if "stop" in b]
    assert stopped[2] == {0: "stop"}
    return found


def num_running(running: Deployment, worker: str) -> int:
    loads = {w["id"]: w["load"] for w in running.workers()}
    return int(loads[worker].get("num_running", 0))


def metric(running: Deployment, name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"baton_{name}"))


async def restart(running: Deployment, name: str, mortal: str = "") -> None:
    if name in running.processes:
        running.kill(name)
    running.start_worker(name, name.split("-")[0], mortal=mortal)
    await asyncio.to_thread(running.wait_ready, 3)


async def test_killed_decode_worker_changes_nothing_that_clients_are_told(
    running: Deployment, requests: list[tuple[str, Body]], expected: list[Told]
) -> None:
    answers = asyncio.create_task(all_told(running, requests))
    while await asyncio.to_thread(num_running, running, "decode-0") < 4:
        assert not answers.done(), "nothing ran on the worker that was to be killed"
    running.kill("decode-0")
    assert await answers == expected
    assert metric(running, "retries_total") >= 1
    await restart(running, "decode-0")


@pytest.mark.parametrize("step", ["write", "rows:4"])
async def test_prefill_worker_that_dies_changes_nothing_that_clients_are_told(
    running: Deployment, requests: list[tuple[str, Body]], expected: list[Told], step: str
) -> None:
    await restart(running, "prefill-0", mortal=step)
    victim = running.processes["prefill-0"]
    assert await all_told(running, requests) == expected
    assert await asyncio.to_thread(victim.wait) == EXIT_STATUS
    running.processes.pop("prefill-0")
    await restart(running, "prefill-0")


async def test_prefill_worker_that_dies_after_its_commit_costs_no_replay(
    running: Deployment, requests: list[tuple[str, Body]], expected: list[Told]
) -> None:
    await restart(running, "prefill-0", mortal="receive:accepted")
    victim = running.processes["prefill-0"]
    attempts = metric(running, "attempts_total")
    # Its first handoff is its last.
    assert await told(running, *requests[0]) == expected[0]
    assert await asyncio.to_thread(victim.wait) == EXIT_STATUS
    running.processes.pop("prefill-0")
    assert metric(running, "attempts_total") - attempts == 1
    await restart(running, "prefill-0")


def test_no_block_is_lost_to_the_dead(running: Deployment) -> None:
    wait_for(
        "free blocks",
        lambda: {w["load"]["free_blocks"] for w in running.workers()} == {KV_BLOCKS},
    )


async def test_deadline_holds_while_no_worker_is_left_and_the_stream_ends_in_an_error(
    running: Deployment, requests: list[tuple[str, Body]]
) -> None:
    answer = Answer()
    wanted = requests[0][1] | {"max_tokens": 1500}
    stream = asyncio.create_task(
        ask(
            running.url,
            wanted,
            answer=answer,
            headers="x-request-timeout: 8\r\nconnection: close\r\n",
        )
    )
    while len(answer.tokens.get(0, ())) < 5:
        assert not stream.done(), answer.problem
        await asyncio.sleep(0.01)
    for name in ("decode-0", "decode-1"):
        running.kill(name)
    await stream
    assert not answer.is_done
    assert '"code": "deadline_exceeded"' in answer.problem
    assert '"message"' in answer.problem and '"type": "server_error"' in answer.problem
