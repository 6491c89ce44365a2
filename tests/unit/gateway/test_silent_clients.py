"""Clients that ask and read nothing: what they asked for ends at its deadline all the same."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import pytest

from fakes.gateway import http_server, make_context
from fakes.generator import FakeGenerator
from fakes.token_plane import TokenPlane
from fakes.until import until
from fakes.worker import FakeWorker


def ask(timeout_s: float, **fields: object) -> bytes:
    body = json.dumps({"model": "tiny", "prompt": [40, 41], "ignore_eos": True, **fields}).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-timeout: %g\r\n"
        b"content-length: %d\r\n\r\n" % (timeout_s, len(body)) + body
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_the_request_of_a_client_that_reads_nothing_ends_at_its_deadline(
    stream: bool,
) -> None:
    # A token every 20 ms: far too few to fill a buffer.
    worker = FakeWorker("a", model="tiny", step_s=0.02)
    async with TokenPlane(worker, models=("tiny",)) as plane:
        context = make_context(FakeGenerator())
        context.generator = plane.dispatcher
        async with http_server(context) as url:
            silent = socket.socket()
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", httpx.URL(url).port))
            await loop.sock_sendall(silent, ask(0.5, stream=stream, max_tokens=400))
            await until(lambda: worker.jobs)
            await until(lambda: not len(context.answers))
            await until(lambda: not worker.jobs)
            (record,) = context.records.newest(10, slow=False, failed=True)
            assert record.code == "deadline_exceeded"
            assert 0.5 <= record.ended_at - record.arrived < 5
            silent.close()
        plane.assert_nothing_left()


async def test_hundreds_of_slow_heads_do_not_stop_one_client_that_asks() -> None:
    generator = FakeGenerator()
    context = make_context(generator)
    async with http_server(context) as url:
        port = httpx.URL(url).port
        writers = []
        for _ in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            # Half of a head each.
            writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-slow:")
            writers.append(writer)
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(20):
                assert (await client.get("/health")).status_code == 200
        for writer in writers:
            writer.close()
