"""A thread for each peer that blocks are written to, with a bounded queue.

Writing takes the thread that does it, and a write to a frozen peer stays unfinished: on a thread
of its own neither holds up the other peers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from baton.core.errors import HandoffError
from baton.transfer.base import BlockWrite, LinkInfo, WriteResult
from baton.transfer.preflight import UNKNOWN, measure
from baton.transfer.writes import ArrayWrite, WriteChecker

log = logging.getLogger(__name__)

Done = Callable[[WriteResult], None]

MAX_QUEUED_WRITES = 1024
# A link is measured when nothing was asked of it for so long.
PREFLIGHT_IDLE_S = 0.02
DISCONNECTED = "the peer was disconnected"


@dataclass(frozen=True, slots=True)
class Job:
    """A write in the queue, and whom to tell what came of it."""

    writes: tuple[ArrayWrite, ...]
    done: Done
    deadline: float

    @property
    def left_s(self) -> float:
        """Until its deadline."""
        return max(0.0, self.deadline - time.monotonic())


class Sender(threading.Thread, ABC):
    """Writes to one life of one peer's agents, in the order of `put`."""

    # How often writes that were given up are looked at.
    stale_poll_s: float

    def __init__(
        self, name: str, checker: WriteChecker, measured: Callable[[LinkInfo], None] | None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._checker = checker
        # None once it has been told.
        self._measured = measured
        self._jobs: queue.Queue[Job | None] = queue.Queue(MAX_QUEUED_WRITES)
        self._stopping = False
        # Held to put a job, and for the thread's end: none is put after it.
        self._lock = threading.Lock()
        self._ended = False

    # --- any thread ---

    def put(self, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        """Queue a write.

        Raises HandoffError when the queue is full, a block does not exist or the thread has ended.
        """
        job = Job(self._checker.check(writes), done, time.monotonic() + timeout_s)
        with self._lock:
            if self._ended:
                raise HandoffError(DISCONNECTED)
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise HandoffError(
                    f"{MAX_QUEUED_WRITES} writes are waiting for this peer"
                ) from None

    def stop(self) -> None:
        """Fail what is queued and end the thread; what is being written ends first."""
        self._stopping = True
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            # The thread sees the flag at its next job.
            return

    # --- the thread ---

    def run(self) -> None:
        try:
            # Connecting takes tens of milliseconds: now, while the prompt is being computed.
            self._try_connect(self.stale_poll_s)
            while not self._stopping:
                try:
                    job = self._jobs.get(timeout=self._patience_s())
                except queue.Empty:
                    if self._has_stale:
                        self._look_at_stale()
                    self._preflight()
                    continue
                if job is None:
                    break
                self._answer(job)
        except Exception:
            log.exception("%s ends", self.name)
        finally:
            self._end()

    def _patience_s(self) -> float | None:
        """How long the queue may be empty before something else is done."""
        if self._measured is not None:
            return PREFLIGHT_IDLE_S
        return self.stale_poll_s if self._has_stale else None

    def _answer(self, job: Job) -> None:
        """Write, and say what came of it, whatever goes wrong: the thread must go on."""
        try:
            problem = DISCONNECTED if self._stopping else self._try_connect(job.left_s)
            result = self._write(job) if problem is None else WriteResult((), 0, error=problem)
        except Exception as error:
            log.exception("%s: a write failed half way", self.name)
            result = self._in_doubt(job, error)
        job.done(result)

    def _preflight(self) -> None:
        """Measure the link while nothing waits for it."""
        if self._measured is None or self._try_connect(self.stale_poll_s) is not None:
            # What cannot be reached is not asked for again until there is something to send.
            self._measured = None
            return
        fabric = UNKNOWN
        try:
            fabric = self._fabric()
            rate = measure(self._write_scratch, lambda: not self._jobs.empty())
        except Exception as error:
            # No more is lost than a number for people.
            log.warning("%s cannot be measured: %s", self.name, error)
            self._disconnect()
            rate = 0.0
        if rate is not None:
            tell, self._measured = self._measured, None
            tell(LinkInfo(fabric, rate))

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._leave()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.done(WriteResult((), 0, error=DISCONNECTED))

    # --- what a transport does, on the thread ---

    @abstractmethod
    def _try_connect(self, wait_s: float) -> str | None:
        """Connect unless that is done, within `wait_s` or so; what went wrong, if anything."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Drop the connections, so that the next write makes new ones."""

    @abstractmethod
    def _write(self, job: Job) -> WriteResult:
        """Write to a peer that is connected; what came of it."""

    @abstractmethod
    def _in_doubt(self, job: Job, error: Exception) -> WriteResult:
        """What to report of a write that ended with `error`, wherever it was."""

    @property
    @abstractmethod
    def _has_stale(self) -> bool:
        """Some write was given up, and may still land."""

    @abstractmethod
    def _look_at_stale(self) -> None:
        """Tell whose writes, given up before, have come to their end after all."""

    @abstractmethod
    def _fabric(self) -> str:
        """What carries the bytes."""

    @abstractmethod
    def _write_scratch(self) -> bool:
        """Write the scratch region; whether it has landed."""

    @abstractmethod
    def _leave(self) -> None:
        """The thread ends: let go of everything."""


S = TypeVar("S", bound=Sender)


class Senders(Generic[S]):
    """The senders of one transport, by peer. On the loop's thread."""

    def __init__(self) -> None:
        self._by_peer: dict[str, S] = {}
        # Told to stop; they leave as soon as their write lets them.
        self._leaving: list[S] = []

    def start(self, peer: str, sender: S) -> None:
        """Have `sender` write to `peer` from now on."""
        self.stop(peer)
        sender.start()
        self._by_peer[peer] = sender

    def stop(self, peer: str) -> None:
        """Its queued writes fail."""
        sender = self._by_peer.pop(peer, None)
        if sender is not None:
            sender.stop()
            self._leaving = [*(s for s in self._leaving if s.is_alive()), sender]

    def put(self, peer: str, writes: Sequence[BlockWrite], done: Done, timeout_s: float) -> None:
        """See `Transport.send`."""
        sender = self._by_peer.get(peer)
        if sender is None:
            raise HandoffError(f"not connected to {peer}")
        sender.put(writes, done, timeout_s)

    def stop_all(self) -> None:
        """As `stop`, for every peer."""
        for peer in list(self._by_peer):
            self.stop(peer)

    def join(self, wait_s: float) -> bool:
        """Wait for those that were stopped; whether all have ended."""
        give_up = time.monotonic() + wait_s
        for sender in self._leaving:
            sender.join(max(0.0, give_up - time.monotonic()))
        self._leaving = [sender for sender in self._leaving if sender.is_alive()]
        return not self._leaving
