"""A further gateway process, on the ports of the one that started it.

    python -m baton.gateway.process

Standard input: one line, a `ProcessConfig`; then `{"stop": SECONDS}`, or `{"leave": true}`. The end
of input means that the parent is gone: streams get `gateway.shutdown_grace_s`. Standard output: one
line, `{"ready": true}`, or `{"code": ..., "message": ...}` for what could not be had.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from baton.core.errors import BatonError
from baton.core.settings import LogSettings
from baton.gateway.http.server import new_event_loop
from baton.gateway.server import GatewayConfig, GatewayServer, ProcessSlot
from baton.telemetry import logging


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """What a further process is told. It inherits the listening socket (`http_fd`) and, where there
    is one for all, the prefix index (`index_fd`).
    """

    gateway: GatewayConfig
    log: LogSettings
    http_fd: int
    index_fd: int | None
    index: int
    folder: Path

    @property
    def fds(self) -> list[int]:
        """All that it inherits."""
        return [fd for fd in (self.http_fd, self.index_fd) if fd is not None]

    def to_json(self) -> bytes:
        return _CONFIG.dump_json(self)

    @classmethod
    def from_json(cls, raw: bytes) -> ProcessConfig:
        return _CONFIG.validate_json(raw)


_CONFIG: TypeAdapter[ProcessConfig] = TypeAdapter(ProcessConfig)


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


async def _run() -> None:
    commands = await _commands()
    config = ProcessConfig.from_json(await commands.readline())
    logging.setup(config.log.level, config.log.format)
    listener = socket.socket(fileno=config.http_fd)
    server = GatewayServer(
        config.gateway, listener, ProcessSlot(config.index, config.folder, config.index_fd)
    )
    try:
        await server.start()
    except BatonError as error:
        _say({"code": error.code, "message": str(error)})
        return
    _say({"ready": True})
    line = await commands.readline()
    command = json.loads(line) if line else {"stop": config.gateway.gateway.shutdown_grace_s}
    if "leave" in command:
        await server.leave()
    else:
        await server.stop(command["stop"])


def main() -> None:
    # The terminal's Ctrl-C reaches the whole group; the parent says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run())


if __name__ == "__main__":
    main()
