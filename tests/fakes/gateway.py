"""The gateway's APIs around a fake generator."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx
import tokenizers

from baton.core.errors import NotFoundError, UnavailableError
from baton.core.settings import GatewaySettings, RecordSettings
from baton.gateway.answer.base import OpenAnswers
from baton.gateway.api.kept_responses import KeptResponses
from baton.gateway.api.prepare import ServedModel
from baton.gateway.app import create_app
from baton.gateway.context import Context
from baton.gateway.hints import Hint, Told
from baton.gateway.http.server import HttpServer
from baton.gateway.keys.auth import is_loopback
from baton.gateway.keys.operator_access import OperatorAccess
from baton.gateway.operations import Operations
from baton.gateway.recent import RecentTimes
from baton.gateway.records.record_book import RecordBook
from baton.gateway.text.chat_template import ChatTemplate
from baton.gateway.text.tokenizer import Tokenizer
from baton.gateway.traffic import Traffic
from baton.router.pool import Pool
from baton.telemetry.addresses import listening_socket
from baton.telemetry.metrics import Metrics
from fakes.generator import FakeGenerator
from fakes.memory_store import MemoryStore
from fakes.small_tokenizer import CHAT_TEMPLATE, byte_level

MODEL = "tiny"
CONTEXT_LENGTH = 512
# The deployment's.
TOKEN = "deployment-token-of-a-test"


@cache
def _tokenizer() -> tokenizers.Tokenizer:
    return byte_level()


def text_tokens(text: str) -> list[int]:
    """Tokens of an answer with this text."""
    ids: list[int] = _tokenizer().encode(text, add_special_tokens=False).ids
    return ids


class FakeSteering:
    """Has worker `w1`, and keeps what it is told."""

    def __init__(self) -> None:
        self.drains: list[tuple[str, float, str]] = []
        self.undrains: list[str] = []

    async def drain(self, worker_id: str, within_s: float, reason: str) -> int:
        self._check(worker_id)
        self.drains.append((worker_id, within_s, reason))
        return 3

    async def undrain(self, worker_id: str) -> None:
        self._check(worker_id)
        self.undrains.append(worker_id)

    def _check(self, worker_id: str) -> None:
        if worker_id == "lost":
            raise UnavailableError("worker lost does not answer")
        if worker_id != "w1":
            raise NotFoundError(f"no worker {worker_id!r} is known")


class FakePrefetcher:
    """Keeps what it is told, and says that worker `w1` was."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def prefetch(self, hint: Hint) -> list[Told]:
        self.hints.append(hint)
        return [Told("w1", "any")]


def make_context(
    generator: FakeGenerator,
    settings: GatewaySettings | None = None,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Context:
    """One model, `tiny`, with the small byte-level tokenizer, always ready."""
    settings = settings or GatewaySettings()
    raw = _tokenizer()
    template = ChatTemplate(chat_template, {"bos_token": "<s>"}) if chat_template else None
    model = ServedModel(
        name=MODEL,
        tokenizer=Tokenizer(raw, template),
        context_length=CONTEXT_LENGTH,
        vocab_size=raw.get_vocab_size(),
        created=int(time.time()),
    )
    answers = OpenAnswers()
    operations = Operations(
        OperatorAccess(TOKEN, is_local=is_loopback(settings.host)),
        FakeSteering(),
        Traffic(MemoryStore(), Pool(), lambda: None),
        RecentTimes(),
    )
    return Context(
        models={MODEL: model},
        generator=generator,
        prefetcher=FakePrefetcher(),
        settings=settings,
        metrics=Metrics(),
        not_ready=lambda: None,
        shortage=lambda _: None,
        workers=lambda: [{"id": "w1"}],
        records=RecordBook(RecordSettings(), answers),
        answers=answers,
        responses=KeptResponses(
            MemoryStore(), settings.response_ttl_s, settings.max_responses_bytes
        ),
        operations=operations,
    )


def asgi_client(context: Context) -> httpx.AsyncClient:
    """Calls the app in this process, without a socket."""
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def events(text: str) -> list[Any]:
    """The documents of a stream of events, `[DONE]` as it is."""
    assert text.endswith("\n\n")
    lines = text.split("\n\n")[:-1]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line[6:] == "[DONE]" else json.loads(line[6:]) for line in lines]


@asynccontextmanager
async def http_server(context: Context, grace_s: float = 0.0) -> AsyncIterator[str]:
    """A real uvicorn on a free port; gives its URL."""
    server = HttpServer(create_app(context), listening_socket("127.0.0.1", 0))
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop(context.answers, grace_s)
