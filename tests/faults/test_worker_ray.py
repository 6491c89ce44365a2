"""`baton worker --ray`: one worker as an actor of a Ray of its own, and both ends of its life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.cluster.child import Child
from baton.cluster.processes import in_session, is_alive
from baton.cluster.protocol import ClusterConfig
from baton.cluster.ray_env import make_temp_dir
from baton.core.errors import UnavailableError
from baton.core.settings import EngineSettings, Settings, WorkerSettings
from fakes.deployment import Deployment, deployment, wait_for
from fakes.proc_tree import children_of, named, read
from fakes.ray_folder import ray_folder
from fakes.streams import Answer, ask
from fakes.until import until

pytestmark = pytest.mark.ray

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def running() -> Iterator[Deployment]:
    """A gateway. Afterwards nothing of any Ray is left."""
    with ray_folder() as folder:
        environment = {
            "TMPDIR": folder,
            "BATON_WORKER__HEALTH_PORT": "0",
            "RAY_AUTH_TOKEN": TOKEN,
        }
        with deployment("--engine", "mock", environment=environment) as it:
            yield it


class RayWorker:
    """A running `baton worker --ray`, and what it started."""

    def __init__(self, running: Deployment, *flags: str) -> None:
        self._running = running
        self.process = running.start_worker("w0", "any", "--ray", *flags)
        wait_for("the worker", lambda: "health at" in running.log("w0"), 120)
        running.wait_ready(1)
        self.at = running.log("w0").partition("health at ")[2].split()[0]
        [self.session] = children_of(self.process.pid)
        [self.actor] = named(self.session, "ray::WorkerActor")
        [self.head] = named(self.session, "gcs_server")

    def probes(self) -> list[int]:
        paths = ("startupz", "livez", "readyz")
        return [httpx.get(f"http://{self.at}/{path}", timeout=10).status_code for path in paths]

    async def end(self) -> int:
        """The exit status; all that it started has to be gone with it."""
        try:
            return await asyncio.to_thread(self.process.wait, 60)
        finally:
            wait_for("Ray's end", lambda: in_session(self.session) == [], 10)

    def stream(self, num_tokens: int) -> asyncio.Task[Answer]:
        body = {
            "model": "baton-tiny",
            "prompt": [5, 6, 7],
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        return asyncio.create_task(ask(self._running.url, body))

    async def until_running(self) -> None:
        await until(lambda: self._running.workers()[0]["load"].get("num_running"))

    def kill_head(self) -> None:
        os.kill(self.head, signal.SIGKILL)
        wait_for("the loss to be seen", lambda: "ray_head_lost" in self._running.log("w0"))


def listening(session: int) -> set[str]:
    """Addresses that the processes of a session accept connections on."""
    inodes = set()
    for pid in in_session(session):
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(fd).removeprefix("socket:[").rstrip("]"))
    found = set()
    for kind, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in read(Path(f"/proc/net/{kind}")).splitlines()[1:]:
            fields = line.split()
            address, state, inode = fields[1].partition(":")[0], fields[3], fields[9]
            if state == "0A" and inode in inodes:
                words = [address[i : i + 8] for i in range(0, len(address), 8)]
                raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
                found.add(socket.inet_ntop(family, raw).removeprefix("::ffff:"))
    return found


async def test_it_serves_drains_and_leaves_nothing(running: Deployment) -> None:
    it = RayWorker(running)
    assert it.probes() == [200, 200, 200]
    assert f"RAY_AUTH_TOKEN={TOKEN}" in read(Path(f"/proc/{it.actor}/environ")).split("\0")
    assert "RAY_AUTH_MODE=token" in read(Path(f"/proc/{it.actor}/environ")).split("\0")
    assert listening(it.session) <= {"127.0.0.1", "::1"}
    # Five seconds for what is read of it meanwhile.
    stream = it.stream(500)
    await it.until_running()
    it.process.terminate()
    await asyncio.to_thread(wait_for, "unready", lambda: it.probes() == [200, 200, 503])
    answer = await stream
    assert (answer.problem, len(answer.tokens[0])) == ("", 500)
    assert await it.end() == 0, running.log("w0")


async def test_without_ray_s_head_it_serves_on_and_drains(running: Deployment) -> None:
    it = RayWorker(running)
    before = it.stream(300)
    await it.until_running()
    it.kill_head()
    assert it.probes() == [200, 200, 200]
    assert len((await before).tokens[0]) == 300
    stream = it.stream(200)
    await it.until_running()
    it.process.terminate()
    answer = await stream
    assert (answer.problem, len(answer.tokens[0])) == ("", 200)
    assert await it.end() == 0, running.log("w0")


@pytest.mark.parametrize("headless", [False, True])
async def test_a_worker_that_dies_ends_the_process(running: Deployment, headless: bool) -> None:
    it = RayWorker(running)
    if headless:
        it.kill_head()
    os.kill(it.actor, signal.SIGKILL)
    assert await it.end() == 1
    assert "baton: w0 died" in running.log("w0")


async def test_a_parent_that_is_killed_takes_everything_along(running: Deployment) -> None:
    it = RayWorker(running)
    it.process.kill()
    assert await it.end() == -signal.SIGKILL


async def test_a_second_signal_ends_it_at_once(running: Deployment) -> None:
    it = RayWorker(running)
    stream = it.stream(5000)
    await it.until_running()
    it.process.terminate()
    await asyncio.to_thread(wait_for, "unready", lambda: it.probes()[2] == 503)
    await asyncio.sleep(1.1)
    it.process.terminate()
    assert await it.end() == 128 + signal.SIGTERM
    stream.cancel()


def test_a_start_that_is_stopped_leaves_nothing(running: Deployment) -> None:
    process = running.start_worker("w0", "any", "--ray")
    wait_for("Ray", lambda: any(named(s, "gcs_server") for s in children_of(process.pid)), 60)
    [session] = children_of(process.pid)
    process.terminate()
    assert process.wait(30) == 0
    assert in_session(session) == []


def test_a_model_that_cannot_load_is_named(running: Deployment) -> None:
    process = running.start_worker("w0", "any", "--ray", "--model", "/no/such/folder")
    assert process.wait(90) == 2
    assert "baton: w0: no such folder: '/no/such/folder'" in running.log("w0")


async def test_a_lost_head_is_not_outlived_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would end the worker in the middle of its work an hour later."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    settings = Settings(
        engine=EngineSettings(kind="mock"), worker=WorkerSettings(worker_id="w0", drain_grace_s=1)
    )
    events: list[dict[str, Any]] = []
    child = await Child.spawn(
        ClusterConfig(
            settings=settings.model_dump(mode="json"),
            token="token",
            store_url="grpc://127.0.0.1:1",
            model_folder=None,
            model_name="name",
            temp_dir=make_temp_dir(),
        ),
        events.append,
        lambda line: None,
        module="fakes.one_worker_main",
    )
    try:
        await child.serve()
        [pid] = [event["pid"] for event in events if event.get("state") == "ready"]
        [head] = named(child.pid, "gcs_server")
        os.kill(head, signal.SIGKILL)
        await asyncio.wait_for(child.ended, 60)
        assert isinstance(child.error, UnavailableError)
        assert "Ray's head has been gone for 2 s" in child.error.message
        assert not is_alive(pid)
    finally:
        await child.stop(force=True)
