"""`baton worker` that misbehaves when told: `faulty_worker.py SOCKET worker --role ...`.

It listens on the Unix datagram socket SOCKET. Each datagram names a fault for the next occasion:
`drop`, `delay`, `duplicate` or `reorder` the next handoff message that this worker says, or
`corrupt` a bit of the next blocks that it is about to check.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from typing import Any

from baton.transfer.links import Link, Message
from baton.transfer.verifier import Verifier

MESSAGE_FAULTS = ("drop", "delay", "duplicate", "reorder")
DELAY_S = 0.5


class Faults:
    """What is to go wrong next. Any thread."""

    def __init__(self, path: str) -> None:
        self.messages: deque[str] = deque()
        self.corruptions: deque[str] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        threading.Thread(target=self._listen, name="faults", daemon=True).start()

    def _listen(self) -> None:
        while True:
            fault = self._socket.recv(64).decode()
            (self.messages if fault in MESSAGE_FAULTS else self.corruptions).append(fault)


def arm(faults: Faults) -> None:
    """Put the faults between the worker and its links and checks."""
    send, check = Link.send, Verifier.check
    held: list[tuple[Link, Message]] = []

    def release() -> None:
        while held:
            send(*held.pop())

    def faulty_send(self: Link, message: Message) -> None:
        fault = faults.messages.popleft() if faults.messages else ""
        if fault == "drop":
            return
        if fault == "delay":
            threading.Timer(DELAY_S, send, [self, message]).start()
        elif fault == "reorder":
            held.append((self, message))
            # Nothing may follow for a long time.
            threading.Timer(DELAY_S, release).start()
        else:
            send(self, message)
            if fault == "duplicate":
                send(self, message)
            release()

    def faulty_check(self: Verifier, checks: Any, *args: Any, **kwargs: Any) -> Any:
        blocks = [(c.group, c.block_ids[0]) for c in checks if c.block_ids]
        if blocks and faults.corruptions:
            faults.corruptions.popleft()
            group, block = blocks[0]
            self._arenas[group].view[block, 0] ^= 1
        return check(self, checks, *args, **kwargs)

    Link.send = faulty_send  # type: ignore[method-assign]
    Verifier.check = faulty_check  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(Faults(sys.argv.pop(1)))
    from baton.cli.main import app

    app()
