"""Mutual TLS between our processes: who gets in, who does not, and what a new certificate does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from baton.core.errors import ConfigError
from baton.telemetry import rpc
from baton.telemetry.deployment_tls import use_tls
from fakes.certificates import Authority, Files

TOKEN = "a-token"
NAME = (("grpc.ssl_target_name_override", "baton"),)


pytestmark = pytest.mark.usefixtures("own_tls")


def mine(files: Files, ca: bytes | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        ca or files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
    )


@dataclass
class Counted:
    """A server of `/x/echo` and `/x/stream` (a stream that stays open), and who came."""

    address: str = ""
    num_calls: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.num_calls += 1
        return request

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


@asynccontextmanager
async def served() -> AsyncIterator[Counted]:
    """As this process's settings are now."""
    it = Counted()
    server = rpc.server(TOKEN)
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(it.echo),  # type: ignore[arg-type]
        "stream": grpc.stream_stream_rpc_method_handler(it.stream),  # type: ignore[arg-type]
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x", handlers),))
    it.address = f"127.0.0.1:{rpc.listen(server, '127.0.0.1', 0)}"
    await server.start()
    try:
        yield it
    finally:
        await server.stop(0)


async def echo(channel: Any, **kw: Any) -> bytes:
    answer: bytes = await channel.unary_unary("/x/echo")(b"hi", timeout=60, **kw)
    return answer


async def refused(channel: Any, **kw: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await echo(channel, **kw)
    return caught.value


async def test_two_of_one_deployment_talk(files: Files) -> None:
    use_tls(files.settings)
    async with served() as server, rpc.channel(server.address, TOKEN) as channel:
        assert await echo(channel) == b"hi"


async def test_the_token_is_asked_for_all_the_same(files: Files) -> None:
    use_tls(files.settings)
    async with served() as server, rpc.channel(server.address, "another") as channel:
        assert (await refused(channel)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.num_calls == 0


async def test_strangers_are_turned_away_and_disturb_nobody(
    authority: Authority, files: Files, tmp_path: Path
) -> None:
    use_tls(files.settings)
    foreign = Authority("another").issue(tmp_path / "foreign", "baton")
    ca, token = files.ca.read_bytes(), rpc.auth_metadata(TOKEN)
    async with served() as server, rpc.channel(server.address, TOKEN) as friend:
        assert await echo(friend) == b"hi"
        strangers = {
            "plain": grpc.aio.insecure_channel(server.address),
            "without a certificate": grpc.aio.secure_channel(
                server.address, grpc.ssl_channel_credentials(ca), options=NAME
            ),
            "of another authority": grpc.aio.secure_channel(
                server.address, mine(foreign, ca), options=NAME
            ),
        }
        for who, channel in strangers.items():
            async with channel:
                error = await refused(channel, metadata=token)
            assert error.code() is grpc.StatusCode.UNAVAILABLE, who
        assert await echo(friend) == b"hi"
    assert server.num_calls == 2


async def test_a_server_of_another_authority_or_name_is_not_trusted(
    authority: Authority, files: Files, tmp_path: Path
) -> None:
    foreign = Authority("another").issue(tmp_path / "foreign", "baton")
    use_tls(foreign.settings)
    async with served() as server:
        use_tls(files.settings)
        async with rpc.channel(server.address, TOKEN) as channel:
            assert "CERTIFICATE_VERIFY_FAILED" in ((await refused(channel)).details() or "")

    other = authority.issue(tmp_path / "other", "llm")
    use_tls(other.settings.model_copy(update={"server_name": "llm"}))
    async with served() as server:
        use_tls(files.settings)
        async with rpc.channel(server.address, TOKEN) as channel:
            assert "Hostname" in ((await refused(channel)).details() or "")
    assert server.num_calls == 0


async def test_a_client_with_tls_gets_nothing_from_a_plain_server(files: Files) -> None:
    async with served() as server:
        use_tls(files.settings)
        async with rpc.channel(server.address, TOKEN) as channel:
            assert (await refused(channel)).code() is grpc.StatusCode.UNAVAILABLE


async def test_new_authorities_replace_the_old_on_open_channels_and_ports(
    files: Files, tmp_path: Path
) -> None:
    """All files are replaced by those of another authority, as when a root is given up."""
    use_tls(files.settings)
    old = mine(files)
    async with served() as server, rpc.channel(server.address, TOKEN) as channel:
        stream = channel.stream_stream("/x/stream")()
        await stream.write(b"before")
        assert await stream.read() == b"before"

        Authority("next").issue(files.folder, "baton")
        assert await echo(channel) == b"hi"
        # What is open stays so.
        await stream.write(b"after")
        assert await stream.read() == b"after"

        async with grpc.aio.secure_channel(server.address, old, options=NAME) as late:
            error = await refused(late, metadata=rpc.auth_metadata(TOKEN))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        stream.cancel()
        assert await echo(channel) == b"hi"


def test_files_of_no_use_are_errors_at_once(files: Files) -> None:
    files.key.unlink()
    with pytest.raises(ConfigError, match=r"tls\.key_file"):
        use_tls(files.settings)
