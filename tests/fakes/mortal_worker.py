"""`baton worker` that dies at a chosen step: `mortal_worker.py STEP worker --role ...`.

STEP is `send:BODY` (before this handoff message goes out), `receive:BODY` (before it is looked at),
`write` (a write has been queued), `rows:N` (N tokens have been published) or `bug:N` (an exception
in the engine's step N).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from baton.engine.engine import Engine
from baton.transfer.handoffs import Handoffs
from baton.transfer.nixl import NixlTransport
from baton.transfer.peers import Peers
from baton.worker.worker import Worker

EXIT_STATUS = 9


def die() -> None:
    os._exit(EXIT_STATUS)


def before(owner: type, name: str, fatal: Callable[..., bool]) -> None:
    """Die instead of calling a method, when `fatal(*arguments)`."""
    original = getattr(owner, name)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if fatal(*args, **kwargs):
            die()
        return original(self, *args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: type, name: str) -> None:
    """Die right after a method returned."""
    original = getattr(owner, name)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        original(self, *args, **kwargs)
        die()

    setattr(owner, name, wrapped)


def arm(step: str) -> None:
    """Make this process die at `step`."""
    kind, _, detail = step.partition(":")
    if kind == "send":
        before(Peers, "send", lambda _peer, message: message.WhichOneof("body") == detail)
    elif kind == "receive":
        before(
            Handoffs, "on_peer_message", lambda _peer, message: message.WhichOneof("body") == detail
        )
    elif kind == "write":
        after(NixlTransport, "send")
    elif kind == "rows":
        left = [int(detail)]

        def fatal(output: Any, _events: Any, _load: Any) -> bool:
            left[0] -= len(output.rows)
            return left[0] <= 0

        before(Worker, "_publish", fatal)
    elif kind == "bug":
        steps = [int(detail)]
        original = Engine.step

        def buggy_step(self: Engine, *args: Any) -> Any:
            steps[0] -= 1
            if steps[0] <= 0:
                raise RuntimeError("a bug of the engine")
            return original(self, *args)

        setattr(Engine, "step", buggy_step)  # noqa: B010 - it is a method
    else:
        raise SystemExit(f"unknown step {step!r}")


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    from baton.cli.main import app

    app()
