"""A real redis-server of a test's own: a free loopback port, no persistence."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time

from fakes.free_port import free_port


class RedisServer:
    """`redis-server` on 127.0.0.1; `stop` ends the process that `start` began."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed"
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        if self.password:
            options += ["--requirepass", self.password]
        self._process = subprocess.Popen(
            [program, *options, "--appendonly", "no", "--daemonize", "no"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(1000):
            assert self._process.poll() is None, "redis-server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("redis-server does not listen")

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
