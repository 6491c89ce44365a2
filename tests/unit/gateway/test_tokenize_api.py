"""/tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from baton.core.settings import GatewaySettings
from fakes.gateway import CONTEXT_LENGTH, asgi_client, make_context, text_tokens
from fakes.generator import FakeGenerator


async def post(path: str, **body: Any) -> httpx.Response:
    settings = GatewaySettings(trust_request_chat_template="chat_template" in body)
    async with asgi_client(make_context(FakeGenerator(), settings)) as client:
        return await client.post(path, json=body)


async def test_text() -> None:
    found = (await post("/tokenize", model="tiny", prompt="hello world")).json()
    ids = [0, *text_tokens("hello world")]
    assert found == {
        "count": len(ids),
        "max_model_len": CONTEXT_LENGTH,
        "tokens": ids,
        "token_strs": None,
    }
    bare = await post("/tokenize", prompt="hello world", add_special_tokens=False)
    assert bare.json()["tokens"] == ids[1:]


async def test_chat() -> None:
    chat = [{"role": "user", "content": "hi"}]
    found = (await post("/tokenize", messages=chat, return_token_strs=True)).json()
    assert found["token_strs"][:2] == ["<s>", "<|im_start|>"]
    assert "".join(found["token_strs"]).endswith("<|im_start|>assistant\u010a")
    shorter = (await post("/tokenize", messages=chat, add_generation_prompt=False)).json()
    assert found["tokens"][: shorter["count"]] == shorter["tokens"]
    assert shorter["tokens"][-2:] == [3, *text_tokens("\n")]
    other = await post("/tokenize", messages=chat, chat_template="{{ messages[0].content }}")
    assert other.json()["tokens"] == text_tokens("hi")


async def test_text_longer_than_the_context_is_only_counted() -> None:
    found = (await post("/tokenize", prompt="hello " * 10_000)).json()
    assert found["count"] > 10 * CONTEXT_LENGTH


async def test_there_and_back() -> None:
    text = "<|im_start|>größe 🎉 </s>"
    ids = (await post("/tokenize", prompt=text)).json()["tokens"]
    assert (await post("/detokenize", tokens=ids)).json() == {"prompt": "<s>" + text}
    assert (await post("/detokenize", tokens=[])).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": []}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": [1]}, "prompt"),
        ("/tokenize", {"prompt": "x", "tools": [{}]}, "tools"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [2**40]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
async def test_refusals_name_the_parameter(path: str, body: dict[str, Any], param: str) -> None:
    response = await post(path, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
