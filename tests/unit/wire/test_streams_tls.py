"""Mutual TLS on streams: who gets in, who does not, and what a new certificate does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baton.core.settings import TlsSettings
from baton.telemetry.deployment_tls import use_tls
from baton.v1 import worker_pb2
from baton.wire.streams.client import ask, dial
from baton.wire.streams.methods import DRAIN, HANDOFF
from baton.wire.streams.server import StreamServer
from baton.wire.streams.status import Code, StreamError
from fakes.certificates import Authority, Files
from fakes.stream_ends import TOKEN, echo, opening, request

pytestmark = pytest.mark.usefixtures("own_tls")


@asynccontextmanager
async def served() -> AsyncIterator[StreamServer]:
    """As this process's settings are now."""
    it = StreamServer("127.0.0.1", 0, TOKEN)
    it.add_single(DRAIN, lambda asked: worker_pb2.DrainResponse(num_running=asked.within_ms))
    it.add(HANDOFF, echo)
    await it.start()
    try:
        yield it
    finally:
        await it.stop(0)


async def answered(it: StreamServer, token: str = TOKEN) -> bool:
    answer = await ask(it.address, token, DRAIN, worker_pb2.DrainRequest(within_ms=5), 30)
    return answer.num_running == 5


async def refused(it: StreamServer, token: str = TOKEN) -> StreamError:
    with pytest.raises(StreamError) as caught:
        await answered(it, token)
    return caught.value


async def test_two_of_one_deployment_talk(files: Files) -> None:
    use_tls(files.settings)
    async with served() as it:
        assert await answered(it)


async def test_the_token_is_asked_for_all_the_same(files: Files) -> None:
    use_tls(files.settings)
    async with served() as it:
        assert (await refused(it, "another")).code is Code.UNAUTHENTICATED


async def test_who_shows_no_certificate_gets_no_answer(files: Files, tmp_path: Path) -> None:
    use_tls(files.settings)
    nobody = ssl.create_default_context(cafile=str(files.ca))
    foreign = ssl.create_default_context(cafile=str(files.ca))
    other = Authority("another").issue(tmp_path / "foreign", "baton")
    foreign.load_cert_chain(other.cert, other.key)
    async with served() as it:
        for context in (None, nobody, foreign):
            answer = b""
            # What tells of the refusal differs: an alert, a reset, an end.
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", it.port, ssl=context, server_hostname=context and "baton"
                )
                writer.write(opening())
                answer = await reader.read()
                writer.close()
            except OSError:
                pass
            assert not answer if context else not answer.startswith(b"HTTP")
        assert await answered(it)


async def test_a_server_of_another_authority_or_name_is_not_trusted(
    authority: Authority, files: Files, tmp_path: Path
) -> None:
    foreign = Authority("another").issue(tmp_path / "foreign", "baton")
    use_tls(foreign.settings)
    async with served() as it:
        use_tls(files.settings)
        assert "CERTIFICATE_VERIFY_FAILED" in (await refused(it)).details

    other = authority.issue(tmp_path / "other", "llm")
    use_tls(other.settings.model_copy(update={"server_name": "llm"}))
    async with served() as it:
        use_tls(files.settings)
        assert "ostname" in (await refused(it)).details


async def test_a_client_with_tls_gets_nothing_from_a_plain_server(files: Files) -> None:
    async with served() as it:
        use_tls(files.settings)
        assert (await refused(it)).code is Code.UNAVAILABLE


async def test_a_client_without_tls_gets_nothing_from_a_server_with_it(files: Files) -> None:
    use_tls(files.settings)
    async with served() as it:
        use_tls(TlsSettings())
        assert (await refused(it)).code is Code.UNAVAILABLE


async def test_new_authorities_hold_for_new_calls_and_leave_open_ones(files: Files) -> None:
    """All files are replaced by those of another authority, as when a root is given up."""
    use_tls(files.settings)
    async with served() as it, dial(it.address, TOKEN, HANDOFF) as open_call:
        open_call.send(request(1))
        assert await open_call.read() is not None
        Authority("next").issue(files.folder, "baton")
        assert await answered(it)
        open_call.send(request(2))
        assert await open_call.read() is not None
