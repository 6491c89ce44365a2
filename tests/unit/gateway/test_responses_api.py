"""/v1/responses: shapes, events, conversations that are kept, refusals."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from baton.core.errors import OverloadedError, WorkerLostError
from baton.core.request import Request
from baton.core.settings import GatewaySettings
from baton.gateway.api.kept_responses import Kept, KeptResponses
from baton.gateway.context import Context
from baton.store.base import MAX_VALUE_BYTES
from fakes.clock import ManualClock
from fakes.gateway import asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator
from fakes.memory_store import MemoryStore
from fakes.small_tokenizer import TOOL_TEMPLATE

TEXT = "hello world, the race goes on 🎉"
TOKENS = text_tokens(TEXT)


def script(request: Request, choice: int) -> list[int]:
    return TOKENS


def context(generator: FakeGenerator | None = None, **settings: Any) -> Context:
    return make_context(
        generator or FakeGenerator(script),
        GatewaySettings(**settings),
        chat_template=TOOL_TEMPLATE,
    )


async def post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "input": "hi", **fields}
    return await client.post("/v1/responses", json=body)


async def answer(gateway: Context, **fields: Any) -> Any:
    async with asgi_client(gateway) as client:
        response = await post(client, **fields)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(gateway: Context, **fields: Any) -> list[Any]:
    async with asgi_client(gateway) as client:
        response = await post(client, stream=True, **fields)
    assert response.status_code == 200, response.text
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert found[-1]["type"] == name.removeprefix("event: ")
    return found


def prompt(gateway: Context, index: int = -1) -> str:
    """The rendered prompt of a request."""
    generator = gateway.generator
    assert isinstance(generator, FakeGenerator)
    (model,) = gateway.models.values()
    ids = generator.requests[index].prompt
    return model.tokenizer.decode(ids, skip_special_tokens=False)


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


async def test_answer_has_openais_shape() -> None:
    gateway = context(FakeGenerator(script, cached_tokens=4))
    document = await answer(gateway, metadata={"a": "b"}, max_output_tokens=50)
    assert document["id"].startswith("resp_") and document["object"] == "response"
    assert document["status"] == "completed" and document["error"] is None
    assert document["metadata"] == {"a": "b"} and document["store"] is True
    (message,) = document["output"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}],
    }
    usage = document["usage"]
    assert usage["output_tokens"] == len(TOKENS) + 1
    assert usage["input_tokens_details"]["cached_tokens"] == 4
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_events_are_openais_in_order() -> None:
    found = await streamed(context())
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    kinds = [e["type"] for e in found]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 3
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert "".join(e["delta"] for e in found if e["type"].endswith("delta")) == TEXT
    whole = found[-1]["response"]
    assert whole["output"][0]["content"][0]["text"] == TEXT == found[-4]["text"]
    assert {e["item_id"] for e in found if "item_id" in e} == {whole["output"][0]["id"]}
    assert whole["usage"]["output_tokens"] == len(TOKENS) + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_too_few_tokens_are_incomplete(stream: bool) -> None:
    if stream:
        last = (await streamed(context(), max_output_tokens=2))[-1]
        assert last["type"] == "response.incomplete"
        document = last["response"]
    else:
        document = await answer(context(), max_output_tokens=2)
    assert document["status"] == "incomplete"
    assert document["incomplete_details"] == {"reason": "max_output_tokens"}
    assert document["output"][0]["status"] == "incomplete"


async def test_logprobs_are_included_when_asked_for() -> None:
    fields: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (message,) = (await answer(context(), **fields))["output"]
    logprobs = message["content"][0]["logprobs"]
    assert len(logprobs) == len(TOKENS) + 1 and len(logprobs[0]["top_logprobs"]) == 2
    found = await streamed(context(), **fields)
    deltas = [e["logprobs"] for e in found if e["type"].endswith("delta")]
    assert [entry for part in deltas for entry in part] == logprobs
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs


async def test_a_kept_response_is_gone_on_with() -> None:
    gateway = context()
    first = await answer(gateway, instructions="Be brief.")
    assert prompt(gateway).startswith("<s>" + turn("system", "Be brief.") + turn("user", "hi"))
    second = (await streamed(gateway, input="more", previous_response_id=first["id"]))[-1]
    said = turn("assistant", TEXT)
    # The instructions of the first are not those of the second.
    assert prompt(gateway) == (
        "<s>" + turn("user", "hi") + said + turn("user", "more") + "<|im_start|>assistant\n"
    )
    second_id = second["response"]["id"]
    assert second["response"]["previous_response_id"] == first["id"]
    async with asgi_client(gateway) as client:
        deleted = await client.delete(f"/v1/responses/{first['id']}")
        assert deleted.json() == {
            "id": first["id"],
            "object": "response.deleted",
            "deleted": True,
        }
        assert (await client.delete(f"/v1/responses/{first['id']}")).status_code == 404
        assert (await client.get(f"/v1/responses/{first['id']}")).status_code == 404
        assert (await client.get(f"/v1/responses/{second_id}")).json() == second["response"]
    # Each holds its whole conversation.
    await answer(gateway, input="and?", previous_response_id=second_id)
    assert prompt(gateway).count("<|im_start|>") == 6


async def test_what_is_not_kept_cannot_be_gone_on_with() -> None:
    gateway = context()
    document = await answer(gateway, store=False)
    assert document["store"] is False
    async with asgi_client(gateway) as client:
        assert (await client.get(f"/v1/responses/{document['id']}")).status_code == 404
        for response_id in (document["id"], "resp_x", "../keys/1"):
            response = await post(client, previous_response_id=response_id)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "previous_response_id"
    nothing = await answer(context(response_ttl_s=0))
    assert nothing["store"] is False


async def test_items_become_turns() -> None:
    gateway = context()
    await answer(
        gateway,
        input=[
            {"role": "developer", "content": "d"},
            {
                "role": "user",
                "type": "message",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
            {
                "type": "message",
                "role": "assistant",
                "id": "m",
                "status": "completed",
                "content": [{"type": "output_text", "text": "c", "annotations": []}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
        ],
    )
    assert prompt(gateway) == (
        "<s>"
        + turn("system", "d")
        + turn("user", "a\nb")
        + turn(
            "assistant",
            '<think>hm</think>c<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
        )
        + turn("tool", "1: one")
        + "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": []}]}, "input[0].type"),
        (
            {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]},
            "input[0].arguments",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include": ["everything"]}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**30}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"messages": []}, "messages"),
    ],
)
async def test_refusals_name_the_parameter(fields: dict[str, Any], param: str) -> None:
    async with asgi_client(context()) as client:
        response = await post(client, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_error_before_the_first_token_has_its_status() -> None:
    generator = FakeGenerator(script)
    generator.refusal = OverloadedError("full")
    async with asgi_client(context(generator)) as client:
        for stream in (False, True):
            assert (await post(client, stream=stream)).status_code == 429


async def test_error_after_the_first_token_fails_the_response() -> None:
    generator = FakeGenerator(script)
    generator.failure = WorkerLostError("the worker died")
    generator.fail_after = 3
    found = await streamed(context(generator))
    error, failed = found[-2:]
    assert (error["type"], error["code"]) == ("error", "worker_lost")
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["message"] == "the worker died"
    assert [e["sequence_number"] for e in found] == list(range(len(found)))


async def test_a_store_that_is_down_costs_only_the_keeping() -> None:
    gateway = context()
    store = MemoryStore()
    gateway.responses = KeptResponses(store, 60, 2**20)
    store.is_down = True
    assert (await answer(gateway))["store"] is False
    assert (await streamed(gateway))[-1]["response"]["store"] is False


def kept(number: int, text: str = "x") -> Kept:
    return Kept({"id": f"resp_{number:032x}"}, [{"role": "user", "content": text}])


async def test_responses_are_their_tenants() -> None:
    responses = KeptResponses(MemoryStore(), 60, 2**20)
    one = kept(1)
    assert await responses.keep(one, "ann")
    assert await responses.get(one.document["id"], "ann") == one
    assert await responses.get(one.document["id"], "bob") is None
    assert not await responses.delete(one.document["id"], "bob")
    assert await responses.delete(one.document["id"], "ann")


async def test_the_oldest_responses_make_room() -> None:
    clock = ManualClock()
    responses = KeptResponses(MemoryStore(), 60, 1000, clock)
    for number in range(20):
        assert await responses.keep(kept(number), "")
    found = [await responses.get(kept(n).document["id"], "") for n in range(20)]
    count = sum(k is not None for k in found)
    assert 3 < count < 20 and found[20 - count :].count(None) == 0


async def test_expired_responses_take_no_room() -> None:
    clock = ManualClock()
    store = MemoryStore()
    responses = KeptResponses(store, 60, 1000, clock)
    for number in range(6):
        assert await responses.keep(kept(number), "")
    # Some stores keep an expired entry's name until it is deleted.
    clock.advance(61)
    assert await responses.keep(kept(6), "")
    assert len(await store.list("responses/")) == 1


async def test_a_response_too_large_for_the_store_is_not_kept() -> None:
    responses = KeptResponses(MemoryStore(), 60, 2**30)
    noise = "".join(map(chr, range(0x4E00, 0x9FFF))) * 40
    big = kept(1, noise[:1000])
    assert await responses.keep(big, "")
    assert await responses.get(big.document["id"], "") == big
    drawn = "".join(random.Random(0).choices(noise, k=MAX_VALUE_BYTES))
    assert not await responses.keep(kept(2, drawn), "")


async def test_a_kept_response_takes_no_query() -> None:
    async with asgi_client(context()) as client:
        made = await client.post("/v1/responses", json={"model": "tiny", "input": "hi"})
        refused = await client.get(f"/v1/responses/{made.json()['id']}?stream=true")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "stream"
