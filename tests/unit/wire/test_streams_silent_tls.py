"""Who connects to a port with TLS and does not get to speak."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.core.settings import TlsSettings
from baton.telemetry.deployment_tls import deployment_tls, use_tls
from baton.wire.streams import server
from baton.wire.streams.client import ask
from baton.wire.streams.framing import Kind, frame
from baton.wire.streams.methods import HANDOFF
from fakes.certificates import Authority
from fakes.stream_ends import TOKEN, opening, request, serving


@pytest.fixture(autouse=True)
def tls(tmp_path: Path) -> Iterator[None]:
    files = Authority().issue(tmp_path / "mine", "baton")
    use_tls(TlsSettings(cert_file=files.cert, key_file=files.key, ca_file=files.ca))
    yield
    use_tls(TlsSettings())


async def test_who_does_not_begin_the_handshake_is_put_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "OPEN_WAIT_S", 0.2)
    async with serving() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_handshake_that_ends_after_the_server_has_stopped_begins_no_call() -> None:
    tls = deployment_tls()
    assert tls is not None
    async with serving() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        # The port has taken the connection when it has taken one that came later.
        await ask(it.address, TOKEN, HANDOFF, request(), 30)
        await it.stop(0)
        answer = b""
        try:
            async with asyncio.timeout(10):
                await writer.start_tls(
                    tls.certificates.latest().client,  # type: ignore[arg-type]
                    server_hostname=tls.server_name,
                )
                message = frame(Kind.MESSAGE, request().SerializeToString())
                writer.write(opening() + message)
                answer = await reader.read(1)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        assert answer == b""
        writer.close()
