"""A gateway of one or more processes on the same ports (`gateway.processes`).

The first is this one; it holds the embedded store. The others are started from it, share its
listening socket, so that whoever is free accepts a connection, and are replaced when they die.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from baton.core.errors import UnavailableError, from_code
from baton.core.settings import LogSettings
from baton.gateway.context import Context
from baton.gateway.process import ProcessConfig
from baton.gateway.server import Addresses, GatewayConfig, GatewayServer, ProcessSlot
from baton.router.shared.barrier import can_share
from baton.router.shared.memory import SharedFile
from baton.telemetry.logging import event

log = logging.getLogger(__name__)

T = TypeVar("T")

START_TIMEOUT_S = 60.0
# Pause before a process that died is replaced.
RESTART_S = 1.0
# For what a process does beyond the time that its streams get.
STOP_MARGIN_S = 5.0


class _Sibling:
    """One further process.

    Started by `subprocess`, which does not fork with gRPC's threads in it, as uvloop's does: a
    process started that way was dead at once now and then.
    """

    def __init__(self, config: ProcessConfig) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None

    async def start(self) -> None:
        """Return when it serves. Raises the error of what could not be had."""
        process = self._process = subprocess.Popen(  # noqa: ASYNC220 - back as soon as it is there
            # Not the folder that the user happens to be in.
            [sys.executable, "-P", "-m", "baton.gateway.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._config.fds,
        )
        assert process.stdout is not None
        self._ended = _in_thread(process.wait)
        self._tell(self._config.to_json())
        line = _in_thread(process.stdout.readline)
        await asyncio.wait([line], timeout=START_TIMEOUT_S)
        if not line.done():
            process.kill()
        said = json.loads(await line or b"{}")
        if "code" in said:
            raise from_code(said["code"], said["message"])
        if "ready" not in said:
            raise UnavailableError("a gateway process did not start; see its messages above")

    async def died(self) -> int:
        """Wait for its end; the exit status."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self, command: dict[str, object], timeout_s: float) -> None:
        """Tell it how to end, and kill it when it takes too long."""
        process, ended = self._process, self._ended
        if process is None or ended is None or ended.done():
            return
        self._tell(json.dumps(command).encode())
        await asyncio.wait([ended], timeout=timeout_s)
        if not ended.done():
            process.kill()
            await ended

    def _tell(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        # One that is gone has said why, or will be found to have ended.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Its result, from a thread of its own: pools have few, and it may take for ever."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def run() -> None:
        result = work()
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=run, name="gateway sibling", daemon=True).start()
    return future


class GatewayProcesses:
    """What `baton serve` and `baton gateway` run. `http_socket` is bound already."""

    def __init__(
        self, config: GatewayConfig, http_socket: socket.socket, log_settings: LogSettings
    ) -> None:
        self._config = config
        self._socket = http_socket
        self._log_settings = log_settings
        self._folder: Path | None = None
        self._index_file: SharedFile | None = None
        self._siblings: list[_Sibling] = []
        self._keepers: list[asyncio.Task[None]] = []
        if config.gateway.processes > 1:
            self._folder = Path(tempfile.mkdtemp(prefix="baton-gateway-"))
            self._index_file = _index_file()
            slot = ProcessSlot(0, self._folder, self._index_fd)
            self._server = GatewayServer(config, http_socket, slot)
        else:
            self._server = GatewayServer(config, http_socket)

    @property
    def _index_fd(self) -> int | None:
        return None if self._index_file is None else self._index_file.fd

    @property
    def context(self) -> Context:
        """Of the process that this is."""
        return self._server.context

    async def start(self) -> Addresses:
        """Serve; raises ConfigError when something cannot be had."""
        try:
            addresses = await self._server.start()
            if self._folder is not None:
                await self._start_siblings(addresses, self._folder)
        except BaseException:
            self._clean_up()
            raise
        return addresses

    async def _start_siblings(self, addresses: Addresses, folder: Path) -> None:
        config = self._config
        ports = {"grpc_port": int(addresses.grpc.rpartition(":")[2])}
        shared = replace(
            config,
            gateway=config.gateway.model_copy(update=ports),
            store=config.store.model_copy(update={"url": addresses.store}),
        )
        fd = self._socket.fileno()
        self._siblings = [
            _Sibling(ProcessConfig(shared, self._log_settings, fd, self._index_fd, index, folder))
            for index in range(1, config.gateway.processes)
        ]
        try:
            await asyncio.gather(*(sibling.start() for sibling in self._siblings))
        except BaseException:
            await self.stop(0.0)
            raise
        self._keepers = [asyncio.create_task(_keep(sibling)) for sibling in self._siblings]

    async def leave(self) -> None:
        """As GatewayServer's, in all processes at once."""
        settings = self._config.gateway
        timeout_s = settings.unready_wait_s + settings.drain_timeout_s + STOP_MARGIN_S
        await self._end({"leave": True}, timeout_s, self._server.leave())

    async def stop(self, grace_s: float) -> None:
        """As GatewayServer's, in all processes at once."""
        await self._end({"stop": grace_s}, grace_s + STOP_MARGIN_S, self._server.stop(grace_s))

    async def _end(
        self, command: dict[str, object], timeout_s: float, own: Coroutine[None, None, None]
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        others = [sibling.stop(command, timeout_s) for sibling in self._siblings]
        try:
            await asyncio.gather(own, *others)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._index_file is not None:
            self._index_file.close()


def _index_file() -> SharedFile | None:
    """For the one prefix index of all processes; None: each has to keep its own."""
    if not can_share():
        reason = "no membarrier(2) here"
    else:
        try:
            return SharedFile.create()
        except (OSError, AttributeError) as error:
            reason = str(error)
    log.warning(*event("prefix_index_not_shared", reason=reason))
    return None


async def _keep(sibling: _Sibling) -> None:
    """Start it again whenever it dies. Its clients have lost their connections."""
    while True:
        status = await sibling.died()
        log.error(*event("gateway_process_died", status=status))
        await asyncio.sleep(RESTART_S)
        try:
            await sibling.start()
        except Exception as error:
            log.exception(*event("gateway_process_not_started", error=str(error)))
