"""The cluster process and its supervisor over a real Ray, with workers that compute nothing."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from baton.cluster.processes import in_session
from baton.cluster.protocol import ClusterConfig
from baton.cluster.supervisor import Supervisor
from baton.core.errors import ModelLoadError, UnavailableError
from baton.core.settings import ClusterSettings, ModelSettings, PoolSettings, Settings

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TESTS = Path(__file__).parent.parent


class Cluster:
    """A supervisor and what it heard."""

    def __init__(self, settings: Settings) -> None:
        self.events: list[dict[str, Any]] = []
        self.supervisor = Supervisor(
            ClusterConfig(
                settings=settings.model_dump(mode="json"),
                token="token",
                store_url="grpc://127.0.0.1:1",
                model_folder="folder",
                model_name="name",
            ),
            self.events.append,
            lambda line: None,
            retire_grace_s=5.0,
            module="fakes.cluster_main",
        )

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.events[-20:]
            await asyncio.sleep(0.05)

    def pids(self, state: str = "ready") -> dict[str, int]:
        """The last word about each worker, of those whose last word is `state`."""
        last = {e["worker_id"]: e for e in self.events if e["event"] == "worker"}
        return {w: e.get("pid", 0) for w, e in last.items() if e["state"] == state}

    @property
    def sessions(self) -> list[int]:
        return [child.pid for child in self.supervisor._children]


@contextlib.asynccontextmanager
async def cluster(
    monkeypatch: pytest.MonkeyPatch, source: str = "baton-tiny", **pools: int
) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    settings = Settings(
        model=ModelSettings(source=source),
        pools=PoolSettings(**pools),
        cluster=ClusterSettings(start_timeout_s=60),
    )
    folders = temp_dirs()
    running = Cluster(settings)
    try:
        yield running
    finally:
        sessions = running.sessions
        await running.supervisor.stop()
        assert [in_session(session) for session in sessions] == [[] for _ in sessions]
        assert temp_dirs() - folders == set()


async def test_pools_are_kept_resized_and_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(monkeypatch, prefill=1, decode=1) as it:
        await it.supervisor.start()
        pids = it.pids()
        assert sorted(pids) == ["decode-0", "prefill-0"]

        os.kill(pids["decode-0"], signal.SIGKILL)
        await it.until(lambda: it.pids().get("decode-0") not in (None, pids["decode-0"]))
        assert it.pids()["prefill-0"] == pids["prefill-0"]

        it.supervisor.resize(PoolSettings(prefill=1, decode=2))
        await it.until(lambda: len(it.pids()) == 3)
        assert sorted(it.pids()) == ["decode-0", "decode-1", "prefill-0"]

        it.supervisor.stop_worker("decode-0", 0.0)
        await it.until(lambda: "decode-0" in it.pids("stopped"))
        assert sorted(it.pids()) == ["decode-1", "prefill-0"]

        # A cluster process that dies takes its workers along; the next has the size asked for last.
        [session] = it.sessions
        os.kill(session, signal.SIGKILL)
        names = ["decode-0-r1", "decode-1-r1", "prefill-0-r1"]
        await it.until(lambda: set(names) <= it.pids().keys())
        assert in_session(session) == []

        pids = it.pids()
        await it.supervisor.stop()
        assert not any(alive(pids[name]) for name in names)


async def test_a_model_that_cannot_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(monkeypatch, source="broken") as it:
        with pytest.raises(ModelLoadError, match=r"-0: no such folder: broken$"):
            await it.supervisor.start()
        assert it.sessions == []


async def test_a_worker_that_keeps_crashing_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(monkeypatch, source="crash", prefill=0, decode=1) as it:
        with pytest.raises(UnavailableError, match="any-0 keeps crashing"):
            await it.supervisor.start()


def alive(pid: int) -> bool:
    """Whether it runs; zombies wait for somebody else's init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def temp_dirs() -> set[str]:
    return set(glob.glob("/tmp/baton-ray-*"))
