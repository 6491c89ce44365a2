"""One cluster process as its parent sees it: a pipe for commands, one for events, one for logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable

from baton.cluster.processes import kill_session
from baton.cluster.protocol import ClusterConfig, Command, Event
from baton.cluster.ray_env import environment
from baton.core import errors
from baton.core.errors import BatonError, ConfigError, UnavailableError

# Standard error kept for the message about a process that died without a word.
TAIL_LINES = 20
MAX_LINE_BYTES = 2**20
# From the end of its input to the kill.
STOP_WAIT_S = 3.0


class Child:
    """A running cluster process. It leads a session of its own, which is swept when it ends."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        config: ClusterConfig,
        on_event: Callable[[Event], None],
        on_log: Callable[[str], None],
    ) -> None:
        self._process = process
        self._config = config
        self._on_event = on_event
        self._on_log = on_log
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ready = asyncio.Event()
        self._error: BatonError | None = None
        self.ray_lost = asyncio.Event()
        """Ray's head is gone: its workers serve on, and nothing can be started."""
        self.ended = asyncio.create_task(self._run())
        """Done when the process and all that it started are gone. Never raises."""
        self.send(config.model_dump(mode="json"))

    @classmethod
    async def spawn(
        cls,
        config: ClusterConfig,
        on_event: Callable[[Event], None],
        on_log: Callable[[str], None],
        module: str = "baton.cluster.main",
        *,
        given_token: bool = False,
        shared_port: int | None = None,
    ) -> Child:
        """Start a process and give it its configuration; the last two are as in `ray_env`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Not the folder that the user happens to be in: it may hold a `ray` of its own.
            "-P",
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(
                os.environ,
                local=config.groups().cluster.ray_address is None,
                given_token=given_token,
                shared_port=shared_port,
            ),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        return cls(process, config, on_event, on_log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Write a line; a process that is gone already ignores it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def serve(self, *, with_log: bool = True) -> None:
        """Return when every worker serves. Raises the error of what could not start.

        What is to be changed is often not known, so the error ends with what was logged last;
        `with_log` False: whoever reads the error has the log already.
        """
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait([ready, self.ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._ready.is_set():
            return
        error = self._error or UnavailableError("the cluster process broke off")
        if isinstance(error, ConfigError) or not with_log:
            raise error
        raise UnavailableError("\n".join([error.message, *self._tail]))

    @property
    def error(self) -> BatonError | None:
        """What it said went wrong, if anything."""
        return self._error

    async def stop(self, *, force: bool = False) -> None:
        """End it and everything that it started: in order, or at once."""
        if not force:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await asyncio.wait([self.ended], timeout=STOP_WAIT_S)
        if not self.ended.done():
            await asyncio.to_thread(kill_session, self.pid)
        await self.ended

    async def _run(self) -> None:
        logs = asyncio.create_task(self._read_logs())
        try:
            await self._read_events()
        finally:
            # Only the process itself holds that pipe, so it has ended, or is about to. What it
            # started may hold the other one. (Popen.kill would reap it behind asyncio's back.)
            await asyncio.to_thread(kill_session, self.pid)
            await self._process.wait()
            await logs
            await asyncio.to_thread(shutil.rmtree, self._config.temp_dir, ignore_errors=True)

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._hear(json.loads(line))

    def _hear(self, event: Event) -> None:
        match event.get("event"):
            case "ready":
                self._ready.set()
            case "error":
                self._error = errors.from_code(event["code"], event["message"])
            case "ray_lost":
                self.ray_lost.set()
        self._on_event(event)

    async def _read_logs(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while True:
            try:
                line = await stderr.readline()
            except ValueError:
                # Longer than the limit; the rest comes as further lines.
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            self._on_log(text)
