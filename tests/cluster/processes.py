"""Programs that tests run: each with a log of its own, none outliving the test run."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_LOG_TAIL_LINES = 30


class ProcessEnded(Exception):
    """A program ended, or was not ready in time; the message holds the end of its log."""


class Processes:
    """Starts programs and ends them in reverse order.

    They get a session of their own, so that Ctrl-C reaches them only through `stop`; the kernel
    kills them when this process dies without having called it (Linux's PR_SET_PDEATHSIG, which
    goes by the thread that started them: use this from the main thread).
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, args: Sequence[object], env: dict[str, str] | None = None) -> None:
        """Run `args`; `name` is that of its log."""
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(arg) for arg in args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def running(self, name: str) -> bool:
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """For tests of what survives the loss or the freeze of a part."""
        self._running[name].send_signal(number)

    def wait_ready(self, name: str, ready: Callable[[], bool], within_s: float) -> None:
        """Until `ready()`; raises ProcessEnded where the program ends first or is too slow."""
        deadline = time.monotonic() + within_s
        while not ready():
            if not self.running(name):
                raise ProcessEnded(f"{name} ended:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise ProcessEnded(f"{name} is not ready after {within_s} s:\n{self.tail(name)}")
            time.sleep(0.05)

    def stop(self, name: str, within_s: float = 10) -> None:
        process = self._running.pop(name)
        # Continued, in case it is frozen.
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def log_sizes(self) -> dict[str, int]:
        """Bytes of each log by name: what `tail` takes to show what came after."""
        return {path.stem: path.stat().st_size for path in sorted(self.logs.glob("*.log"))}

    def tail(self, name: str, start: int = 0) -> str:
        """The last lines of a log, none from before byte `start`."""
        with self.log(name).open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
