"""`python -m baton_operator` as a process: what it does before it may act, and how it ends.

The API server is a small one of the test's; `tests/cluster` has the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from fakes.kube_api import KubeApi, served

LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/baton-operator"


def kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


class Operator:
    """The process, and what it logged so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    async def told(self, name: str) -> dict[str, object]:
        """The first line of this event, once it is there."""
        async with asyncio.timeout(60):
            while True:
                for line in self.lines:
                    if line["event"] == name:
                        return line
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            status = await self.process.wait()
            await self._reading
            return status


@contextlib.asynccontextmanager
async def started(folder: Path, server: str, **settings: object) -> AsyncIterator[Operator]:
    given = {
        "key": "0123456789abcdef",
        "metrics_port": 0,
        "health_port": 0,
        **settings,
    }
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BATON_")},
        "KUBECONFIG": str(kubeconfig(folder, server)),
        **{f"BATON_OPERATOR_{name.upper()}": str(value) for name, value in given.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton_operator", env=env, stdout=PIPE, stderr=PIPE
    )
    try:
        yield Operator(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def probe(operator: Operator, path: str) -> httpx.Response:
    port = (await operator.told("operator_started"))["health_port"]
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}/{path}")


async def test_without_crds_it_waits_alive_and_ends_as_it_is_told(tmp_path: Path) -> None:
    api = KubeApi()
    async with served(api) as configuration, started(tmp_path, configuration.host) as operator:
        waiting = await operator.told("waiting_to_watch")
        assert "modelservices" in str(waiting["reason"])
        for path in ("healthz", "readyz"):
            answer = await probe(operator, path)
            assert answer.status_code == 200 and answer.json()["role"] == "leader"
        port = (await operator.told("operator_started"))["metrics_port"]
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert "baton_operator_leader 1.0" in text and "process_resident_memory_bytes" in text
        operator.process.send_signal(signal.SIGTERM)
        assert await operator.ended() == 0
        assert api.objects[LEASE]["spec"]["holderIdentity"] == ""


async def test_a_standby_is_ready_and_ends_at_once(tmp_path: Path) -> None:
    api = KubeApi()
    spec = {"holderIdentity": "another", "renewTime": "now", "leaseDurationSeconds": 3600}
    api.store(LEASE, {"metadata": {"name": "baton-operator"}, "spec": spec})
    async with served(api) as configuration, started(tmp_path, configuration.host) as operator:
        answer = await probe(operator, "readyz")
        assert answer.status_code == 200 and answer.json()["role"] == "standby"
        operator.process.send_signal(signal.SIGTERM)
        assert await operator.ended() == 0
        assert api.objects[LEASE]["spec"]["holderIdentity"] == "another"


async def test_with_the_lease_lost_it_ends_with_another_status(tmp_path: Path) -> None:
    api = KubeApi()
    soon = {"lease_duration_s": 3, "lease_deadline_s": 2, "lease_retry_s": 0.2}
    async with (
        served(api) as configuration,
        started(tmp_path, configuration.host, **soon) as operator,
    ):
        await operator.told("lease_acquired")
        api.refuse = lambda method, path: (500, "InternalError")
        assert await operator.ended() == 1
        assert any(line["event"] == "lease_lost" for line in operator.lines)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"key": "short"}, "BATON_OPERATOR_KEY"), ({"nonsense": "1"}, "BATON_OPERATOR_NONSENSE")],
)
async def test_settings_that_make_no_sense_are_named(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    env = {"BATON_OPERATOR_KEY": "0123456789abcdef", "PATH": os.environ["PATH"]}
    env |= {f"BATON_OPERATOR_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton_operator", env=env, stdout=PIPE, stderr=PIPE
    )
    _, complaint = await process.communicate()
    assert process.returncode == 2 and said in complaint.decode()
