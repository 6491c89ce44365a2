"""What a gateway has to say to a worker and has not sent: all of one moment in one message."""

from __future__ import annotations

import asyncio
from collections.abc import Container

from baton.v1 import session_pb2

# Ended slots are reported together: so many at once, or after so long.
FORGET_BATCH = 64
FORGET_DELAY_S = 0.25


class Outbox:
    """Filled on the gateway's event loop, and emptied there by who waits for `filled`."""

    def __init__(self) -> None:
        self.filled = asyncio.Event()
        self._message = session_pb2.SessionRequest()
        self._forgotten: list[int] = []
        self._forget_timer: asyncio.TimerHandle | None = None

    def submit(self, submit: session_pb2.Submit) -> None:
        """A copy of it."""
        self._message.submits.append(submit)
        self.filled.set()

    def cancel(self, slot: int) -> None:
        self._message.cancels.add(slot=slot)
        self.filled.set()

    def migrate(self, migrate: session_pb2.Migrate) -> None:
        self._message.migrates.append(migrate)
        self.filled.set()

    def prefetch(self, prefetch: session_pb2.Prefetch) -> None:
        self._message.prefetches.append(prefetch)
        self.filled.set()

    def forget(self, slot: int) -> None:
        """Nobody waits for this: it may be said later."""
        self._forgotten.append(slot)
        if len(self._forgotten) >= FORGET_BATCH:
            self.hurry()
        elif self._forget_timer is None:
            self._forget_timer = asyncio.get_running_loop().call_later(FORGET_DELAY_S, self.hurry)

    def hurry(self) -> None:
        """Send all there is now, ended slots too."""
        self._stop_timer()
        self.filled.set()

    def take(self, slots: Container[int]) -> session_pb2.SessionRequest:
        """What is to be sent now, without submissions for other slots than `slots`."""
        self.filled.clear()
        message, self._message = self._wanted(slots), session_pb2.SessionRequest()
        if self._forgotten and self._forget_timer is None:
            message.forget.slots.extend(self._forgotten)
            self._forgotten.clear()
        return message

    def keep_submits(self, slots: Container[int]) -> None:
        """The stream is lost: submissions wait for the next one, the rest was about this one."""
        self._stop_timer()
        self._forgotten.clear()
        self._message = session_pb2.SessionRequest(submits=self._wanted(slots).submits)

    def clear(self) -> None:
        """Nothing will ever be sent."""
        self._stop_timer()
        self._message.Clear()

    def _wanted(self, slots: Container[int]) -> session_pb2.SessionRequest:
        """The message without submissions that were cancelled before they left."""
        submits = self._message.submits
        for i in reversed(range(len(submits))):
            if submits[i].slot not in slots:
                del submits[i]
        return self._message

    def _stop_timer(self) -> None:
        if self._forget_timer is not None:
            self._forget_timer.cancel()
            self._forget_timer = None
