"""A real redis-server of a test's own: a free loopback port, no persistence."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from fakes.free_port import free_port

START_S = 30.0


class RedisServer:
    """`redis-server` on 127.0.0.1; `stop` ends the process that `start` began."""

    def __init__(self, password: str = "", *options: str) -> None:
        self.password = password
        self.port = free_port()
        self._arguments = ["--save", "", "--appendonly", "no", *options]
        if password:
            self._arguments += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Redis:
        return Redis(port=self.port, password=self.password or None, socket_timeout=2.0)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed"
        self._process = subprocess.Popen(
            [program, *self._arguments, "--bind", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "redis-server ended"
        try:
            with self.client as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            # Continued, in case it is frozen.
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unfreeze(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


class RedisSentinel(RedisServer):
    """`redis-server --sentinel`, which keeps what it finds out in a file of `folder`."""

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__()
        file = folder / f"sentinel-{self.port}.conf"
        file.write_text(config)
        self._arguments = [str(file), "--sentinel", "--dir", str(folder)]
