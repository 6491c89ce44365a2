"""One gateway's submissions to a worker, and what its stream has yet to carry.

A message costs the gateway more than all that is in it, so news waits for company as long as
nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from enum import Enum, auto

from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.wire.frames import HELD_WAIT_S, FrameColumns
from baton.worker.slot_log import SlotLog

SlotEvent = session_pb2.SlotEvent

# For tokens to go with.
COMPANY_WAIT_S = 0.005
# News that changes little for anybody, how full a worker is that goes on as before, goes along once
# it is so old, and by itself after HELD_WAIT_S: taking in a load costs a gateway as much as several
# tokens.
GRADUAL_WAIT_S = 0.05
# Longer, and the times that they bring would come after the end of a short request.
_UNHURRIED = frozenset(
    {SlotEvent.KIND_SCHEDULED, SlotEvent.KIND_HANDED_OFF, SlotEvent.KIND_FIRST_STEP}
)


class LoadNews(Enum):
    """What a load report says that the one before did not."""

    NONE = auto()
    GRADUAL = auto()
    SUDDEN = auto()


class GatewaySession:
    """Outlives its stream. `wake` has the stream's writer look for a frame."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.slots: dict[int, SlotLog] = {}
        self.stream: object | None = None
        self.reader: asyncio.Task[None] | None = None
        self.grace: asyncio.TimerHandle | None = None
        self.wake = asyncio.Event()
        self._wake_timer: asyncio.TimerHandle | None = None
        self._held_timer: asyncio.TimerHandle | None = None
        # Submissions that no load knows of yet, by their number among all sessions' and by slot;
        # and the newest slot that the load does know of.
        self._untold: deque[tuple[int, int]] = deque()
        self._newest_slot = 0
        # Slots with rows that wait for more, and when gradual news came that waits, too.
        self._held: dict[int, SlotLog] = {}
        self._gradual_since: float | None = None
        self.clear()

    # --- news ---

    def submit(self, submit: session_pb2.Submit, number: int) -> None:
        """A submission, the so-many-th of all sessions'."""
        self.slots[submit.slot] = SlotLog(submit)
        self._untold.append((number, submit.slot))

    def drop(self, slot_id: int) -> bool:
        """No more of a submission is wanted; whether it was known."""
        self._due.pop(slot_id, None)
        self._held.pop(slot_id, None)
        return self.slots.pop(slot_id, None) is not None

    def add_row(self, slot_id: int, row: TokenRow) -> None:
        """A token. Those of unknown slots are dropped."""
        slot = self.slots.get(slot_id)
        if slot is None:
            return
        is_due = slot.add(row)
        if self.stream is None:
            return
        if is_due:
            self._due[slot_id] = slot
            self.wake.set()
        else:
            self._held[slot_id] = slot
            if self._held_timer is None:
                loop = asyncio.get_running_loop()
                self._held_timer = loop.call_later(HELD_WAIT_S, self.send_held)

    def add_event(self, slot_id: int, slot_event: SlotEvent) -> None:
        """Something else. Events of unknown slots are dropped."""
        slot = self.slots.get(slot_id)
        if slot is None:
            return
        slot_event.slot = slot_id
        slot.events.append(slot_event)
        if self.stream is None:
            return
        # The rows before it must not come after it.
        self._due[slot_id] = slot
        self._events.append((slot_event, time.monotonic()))
        if slot_event.kind in _UNHURRIED and not slot_event.handoff_id:
            self._send_within(COMPANY_WAIT_S)
        else:
            self.wake.set()

    def add_load(self, news: LoadNews, num_submitted: int) -> None:
        """There is a new load, which counts the first so many submissions of all sessions."""
        before = self._newest_slot
        while self._untold and self._untold[0][0] <= num_submitted:
            _, self._newest_slot = self._untold.popleft()
        if self.stream is None:
            return
        if news is LoadNews.SUDDEN or self._newest_slot != before:
            self._load_due = True
            self._send_within(COMPANY_WAIT_S)
        elif news is LoadNews.GRADUAL and self._gradual_since is None:
            self._gradual_since = time.monotonic()
            self._send_within(HELD_WAIT_S)

    def beat(self) -> None:
        """Send a frame, an empty one if need be."""
        self._beat_due = True
        self.wake.set()

    def send_held(self) -> None:
        """Send all rows that wait for more."""
        if self._held:
            self._due |= self._held
            self.wake.set()
        self._hold_nothing()

    def resume(self, slot_id: int, next_positions: dict[int, int]) -> None:
        """Send again what a slot's gateway has not seen."""
        now = time.monotonic()
        slot = self.slots[slot_id]
        slot.resume(slot_id, next_positions, self._columns)
        self._events.extend((slot_event, now) for slot_event in slot.events)

    def add_lost(self, slot_event: SlotEvent) -> None:
        """An event of a slot that is unknown here."""
        self._events.append((slot_event, time.monotonic()))

    # --- frames ---

    def clear(self) -> None:
        """Forget what is pending; the slots keep it."""
        self._hold_nothing()
        self._begin_frame()
        self._load_due = True

    def take_frame(self, load: session_pb2.Load | None) -> session_pb2.Frame | None:
        """All that is pending as one frame."""
        for slot_id, slot in self._due.items():
            slot.take(slot_id, self._columns)
            self._held.pop(slot_id, None)
        now = time.monotonic()
        waits_since = self._gradual_since
        is_old = waits_since is not None and now - waits_since >= GRADUAL_WAIT_S
        send_load = load is not None and (self._load_due or is_old)
        if not self._columns and not self._events and not send_load and not self._beat_due:
            return None
        frame = self._columns.frame()
        for slot_event, since in self._events:
            if slot_event.kind == SlotEvent.KIND_SCHEDULED:
                slot_event.age_s += now - since
            frame.events.append(slot_event)
        self._begin_frame()
        if send_load:
            assert load is not None
            frame.load.CopyFrom(load)
            frame.load.newest_slot = self._newest_slot
        elif waits_since is not None:
            self._gradual_since = waits_since
            self._send_within(waits_since + HELD_WAIT_S - now)
        return frame

    def _begin_frame(self) -> None:
        # Rows to be sent again, and slots with new ones.
        self._columns = FrameColumns()
        self._due: dict[int, SlotLog] = {}
        # Each with the instant from which it has waited.
        self._events: list[tuple[SlotEvent, float]] = []
        self._load_due = False
        self._gradual_since = None
        self._beat_due = False
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None

    def _send_within(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._wake_timer is not None:
            if self._wake_timer.when() <= loop.time() + wait_s:
                return
            self._wake_timer.cancel()
        self._wake_timer = loop.call_later(wait_s, self._wait_is_over)

    def _wait_is_over(self) -> None:
        self._wake_timer = None
        self.wake.set()

    def _hold_nothing(self) -> None:
        self._held.clear()
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
