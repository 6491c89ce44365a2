"""A worker of two nodes: `baton worker --ray --nodes 2` and `--join`, as two pods run them.

Two addresses of one machine stand for two machines.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from baton.cluster.processes import in_session
from fakes.deployment import Deployment, deployment, wait_for
from fakes.free_port import free_port
from fakes.proc_tree import children_of, named
from fakes.ray_folder import ray_folder
from fakes.streams import Answer, ask
from fakes.until import until

pytestmark = pytest.mark.ray

TOKEN = "0123456789abcdef0123456789abcdef"
LEADER, OTHER = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def running() -> Iterator[Deployment]:
    """A gateway. Afterwards nothing of any Ray is left."""
    with ray_folder() as folder:
        environment = {
            "TMPDIR": folder,
            "RAY_AUTH_TOKEN": TOKEN,
            "BATON_CLUSTER__RAY_PORT": str(free_port(LEADER)),
            "BATON_WORKER__DRAIN_GRACE_S": "60",
        }
        with deployment("--engine", "mock", environment=environment) as it:
            yield it


class Group:
    """A leader, the node that joins it, and what both started."""

    def __init__(self, running: Deployment) -> None:
        self._running = running
        self.other = join(running)
        # It comes first: pods start in any order, and the other waits.
        wait_for("the knocking", lambda: "waiting for the leader's Ray" in running.log("other"), 60)
        self.leader = lead(running)
        wait_for("the worker", self._serves, 150)
        running.wait_ready(1)
        self.at = running.log("leader").partition("health at ")[2].split()[0]
        [self._leader_session] = children_of(self.leader.pid)
        [self._other_session] = children_of(self.other.pid)

    def _serves(self) -> bool:
        for name in ("leader", "other"):
            assert self._running.processes[name].poll() is None, self._running.log(name)
        return "health at" in self._running.log("leader")

    @property
    def head(self) -> int:
        [pid] = named(self._leader_session, "gcs_server")
        return pid

    def ready(self) -> int:
        return httpx.get(f"http://{self.at}/readyz", timeout=10).status_code

    def ends(self) -> tuple[int, int]:
        """Exit statuses of both; all that they started has to be gone with them."""
        statuses = self.leader.wait(90), self.other.wait(90)
        for session in (self._leader_session, self._other_session):
            wait_for("Ray's end", lambda session=session: in_session(session) == [], 10)
        return statuses

    async def stream(self, num_tokens: int) -> asyncio.Task[Answer]:
        """One that runs."""
        body = {
            "model": "baton-tiny",
            "prompt": [5, 6, 7],
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        task = asyncio.create_task(ask(self._running.url, body))
        await until(lambda: self._running.workers()[0]["load"].get("num_running"))
        return task


def lead(running: Deployment, *flags: str) -> subprocess.Popen[bytes]:
    nodes = ("--ray", "--nodes", "2", "--host", LEADER, "--health-port", "0")
    return running.start_worker("leader", "any", *nodes, *flags)


def join(
    running: Deployment, *flags: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    joining = ("--join", LEADER, "--host", OTHER)
    return running.start_worker("other", "any", *joining, *flags, environment=environment)


async def test_it_serves_with_both_nodes_and_they_leave_together(running: Deployment) -> None:
    group = Group(running)
    assert "1 of the worker's 2 nodes have joined" in running.log("leader")
    assert "2 of the worker's 2 nodes have joined" in running.log("leader")
    assert [worker["id"] for worker in running.workers()] == ["leader"]
    stream = await group.stream(400)
    # As an eviction does it: the other node first, and its controller then ends the whole group.
    group.other.terminate()
    await asyncio.sleep(1.0)
    assert group.ready() == 200
    group.leader.terminate()
    answer = await stream
    assert (answer.problem, len(answer.tokens[0])) == ("", 400)
    assert await asyncio.to_thread(group.ends) == (0, 0), running.log("leader")


async def test_a_leader_that_is_killed_ends_its_other_node(running: Deployment) -> None:
    group = Group(running)
    group.leader.kill()
    assert await asyncio.to_thread(group.ends) == (-signal.SIGKILL, 1)
    assert "the leader's Ray at" in running.log("other")


async def test_a_node_that_is_killed_ends_the_worker(running: Deployment) -> None:
    group = Group(running)
    group.other.kill()
    assert await asyncio.to_thread(group.ends) == (1, -signal.SIGKILL)
    assert f"the worker has lost its node at {OTHER}" in running.log("leader")


async def test_without_ray_s_head_none_of_them_goes_on(running: Deployment) -> None:
    group = Group(running)
    os.kill(group.head, signal.SIGKILL)
    assert await asyncio.to_thread(group.ends) == (1, 1)
    assert "Ray's head died, and with it this worker's other nodes" in running.log("leader")


def test_who_waits_for_the_others_leaves_when_told(running: Deployment) -> None:
    for name, process in (("other", join(running)), ("leader", lead(running, "--nodes", "3"))):
        waits = "waiting for" if name == "other" else "of the worker's 3 nodes"
        wait_for(name, lambda name=name, waits=waits: waits in running.log(name), 90)
        [session] = children_of(process.pid)
        process.terminate()
        assert process.wait(60) == 0
        wait_for("Ray's end", lambda session=session: in_session(session) == [], 10)
        del running.processes[name]


def test_another_token_is_refused(running: Deployment) -> None:
    lead(running)
    other = join(running, environment={"RAY_AUTH_TOKEN": "f" * 32})
    assert other.wait(120) == 1
    assert "Authentication token is missing or incorrect" in running.log("other")
    assert "Ray did not join" in running.log("other")
