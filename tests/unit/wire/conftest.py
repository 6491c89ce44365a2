"""Streams run on uvloop in gateways and workers, and on asyncio's own loop in tests and tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from baton.wire.streams import server, stream


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers made by hand close only when they are put out."""
    for module in (server, stream):
        monkeypatch.setattr(module, "LINGER_S", 0.05)
