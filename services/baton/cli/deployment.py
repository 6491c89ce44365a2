"""A whole deployment in the foreground: this process is the gateway, a child drives Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from baton.cli.progress import Stages
from baton.cli.stopping import Stopped, StopSignals
from baton.cluster.parts import cluster_config, gateway_config
from baton.cluster.pools import targets
from baton.cluster.protocol import Event
from baton.cluster.supervisor import Supervisor
from baton.core import model_folder
from baton.core.errors import UnavailableError
from baton.core.redact import redact_url
from baton.core.settings import Settings
from baton.gateway.processes import GatewayProcesses
from baton.gateway.server import Addresses
from baton.telemetry import logging as telemetry_logging
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

T = TypeVar("T")

# From a worker's readiness to the gateway's session with it.
DISCOVERY_S = 15.0
POLL_S = 0.05
# Exit status of a start that Ctrl-C cut short, as shells have it.
INTERRUPTED = 130
# Worker logs at and above warning, in either format, after Ray's own prefix.
_SERIOUS = re.compile(r"\d (WARNING|ERROR|CRITICAL) |\"level\": \"(warning|error|critical)\"")


async def _detached(function: Callable[..., T], *args: Any) -> T:
    """Like asyncio.to_thread, but a process may end before it: a download cannot be cancelled."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(cast(T, value))
        else:
            result.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (function(*args), None)
        except BaseException as error:
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await result


class _Stderr:
    """Whatever standard error is now: live progress puts itself in its place for a while."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class Deployment:
    """`run()` starts everything, serves until a signal comes, and leaves nothing behind."""

    def __init__(
        self, settings: Settings, token: str, token_file: Path, listener: socket.socket
    ) -> None:
        self._settings = settings
        self._token = token
        self._token_file = token_file
        self._listener = listener
        self._gateway: GatewayProcesses | None = None
        self._supervisor: Supervisor | None = None
        self._stages: Stages | None = None

    async def run(self) -> int:
        """Returns the exit status; raises the error of what could not start, once all is gone."""
        settings = self._settings
        telemetry_logging.setup(settings.log.level, settings.log.format, _Stderr())  # type: ignore[arg-type]
        signals = StopSignals()
        started = time.monotonic()
        status = 0
        try:
            with Stages() as self._stages:
                addresses = await signals.unless_asked(self._start(self._stages))
            self._stages = None
            self._say_ready(addresses, time.monotonic() - started)
            await signals.asked.wait()
        except Stopped:
            status = INTERRUPTED
        except BaseException:
            self._stages = None
            await self._stop()
            raise
        self._stages = None
        try:
            await signals.unless_forced(self._stop())
        except Stopped:
            await self._force()
        return status

    # --- up ---

    async def _start(self, stages: Stages) -> Addresses:
        settings = self._settings
        source = settings.model.source
        stages.start("model", f"model {source}")
        folder = await _detached(model_folder.resolve, source, settings.model.revision)
        stages.done("model", f"model {source}")

        stages.start("gateway", "gateway")
        gateway = gateway_config(settings, folder, self._token)
        server = GatewayProcesses(gateway, self._listener, settings.log)
        addresses = await server.start()
        self._gateway = server
        stages.done("gateway", f"gateway at {addresses.http}")

        self._supervisor = Supervisor(
            cluster_config(settings, gateway, addresses.store),
            self._on_event,
            self._on_log,
        )
        await self._supervisor.start()
        await self._discover(sum(targets(settings.pools).values()))
        return addresses

    async def _discover(self, num_workers: int) -> None:
        """Wait until the gateway itself has a session with every worker.

        Raises UnavailableError when it finds none of them, and says so when some are missing.
        """
        assert self._gateway is not None
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline:
            states = [worker["state"] for worker in self._gateway.context.workers()]
            if states.count("ready") >= num_workers:
                return
            await asyncio.sleep(POLL_S)
        if "ready" not in states:
            store = redact_url(self._settings.store.url)
            raise UnavailableError(
                f"the workers run, but the gateway does not find them through the store {store!r}; "
                "is it reachable?"
            )
        log.warning(*event("workers_not_discovered", wanted=num_workers, states=states))

    def _say_ready(self, addresses: Addresses, seconds: float) -> None:
        settings = self._settings
        name = settings.model.name or model_folder.served_name(settings.model.source)
        messages = [{"role": "user", "content": "Hello!"}]
        body = {"model": name, "messages": messages, "max_tokens": 64}
        store = redact_url(addresses.store)
        print(
            f"Ready in {seconds:.1f} s: {addresses.http} (gRPC {addresses.grpc}, store {store}, "
            f"token file {self._token_file}). Ctrl-C stops it. Try:\n"
            f"curl {addresses.http}/v1/chat/completions -H 'content-type: application/json' "
            f"-d {shlex.quote(json.dumps(body))}",
            flush=True,
        )

    # --- what the cluster process says ---

    def _on_event(self, happened: Event) -> None:
        if self._stages is None:
            self._log_event(happened)
            return
        match happened:
            case {"event": "stage", "name": str(name), "seconds": _}:
                self._stages.done(name, name.capitalize())
            case {"event": "stage", "name": str(name)}:
                self._stages.start(name, name.capitalize())
            case {"event": "worker", "worker_id": str(worker), "state": "starting"}:
                self._stages.start(worker, worker)
            case {"event": "worker", "worker_id": str(worker), "state": "ready", "pid": int(pid)}:
                self._stages.done(worker, f"{worker}, process {pid}")
            case {"event": "worker", "worker_id": str(worker), "state": str(state)}:
                self._stages.fail(worker, f"{worker} {state}")

    def _log_event(self, happened: Event) -> None:
        if happened.get("event") != "worker":
            return
        state = happened["state"]
        fields = {k: happened[k] for k in ("role", "pid", "message") if k in happened}
        level = logging.INFO if state in ("starting", "ready", "stopped") else logging.WARNING
        log.log(level, *event(f"worker_{state}", worker=happened["worker_id"], **fields))

    def _on_log(self, line: str) -> None:
        if self._settings.log.level in ("debug", "info") or _SERIOUS.search(line):
            if self._stages is not None:
                self._stages.write(line)
            else:
                print(line, file=sys.stderr, flush=True)

    # --- down ---

    async def _stop(self) -> None:
        """In order: streams get their grace, then the workers go, then what the streams ran on."""
        grace_s = self._settings.gateway.shutdown_grace_s
        self._listener.close()
        stopping = []
        if self._gateway is not None:
            stopping.append(asyncio.create_task(self._gateway.stop(grace_s)))
            await asyncio.wait(stopping, timeout=grace_s + POLL_S)
        if self._supervisor is not None:
            stopping.append(asyncio.create_task(self._supervisor.stop()))
        for outcome in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.error("stopping", exc_info=outcome)

    async def _force(self) -> None:
        """Whatever still runs is killed, and nobody is told."""
        if self._supervisor is not None:
            await self._supervisor.stop(force=True)
        os._exit(1)
