"""One gateway's submissions to a worker, and what its stream has yet to carry.

A message costs the gateway more than all that is in it, so news waits for company as long as
nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from baton.engine.outputs import TokenRow
from baton.v1 import session_pb2
from baton.wire.frames import HELD_WAIT_S, FrameColumns
from baton.wire.streams.stream import Stream
from baton.worker.load_news import LoadNews
from baton.worker.slot_log import SlotLog

SlotEvent = session_pb2.SlotEvent
GatewayStream = Stream[session_pb2.SessionResponse, session_pb2.SessionRequest]

# A gateway takes a worker that it does not hear for seconds as lost.
HEARTBEAT_S = 1.0
# For tokens to go with.
COMPANY_WAIT_S = 0.005
# News that changes little for anybody, how full a worker is that goes on as before, goes along once
# it is so old, and by itself after HELD_WAIT_S: taking in a load costs a gateway as much as several
# tokens.
GRADUAL_WAIT_S = 0.05
# Rows that nobody waits for leave when there are so many, too: they take a gateway about 5 ms, and
# what comes meanwhile waits for that.
MAX_HELD_ROWS = 1024
# Longer, and the times that they bring would come after the end of a short request.
_UNHURRIED = frozenset(
    {SlotEvent.KIND_SCHEDULED, SlotEvent.KIND_HANDED_OFF, SlotEvent.KIND_FIRST_STEP}
)


class GatewaySession:
    """Outlives its streams, of which it has one at a time, or none.

    When `wake` is set, `take_frame` may have something for the stream.
    """

    def __init__(self, session_id: str, load: session_pb2.Load | None) -> None:
        self.id = session_id
        self.slots: dict[int, SlotLog] = {}
        self.stream: GatewayStream | None = None
        self.wake = asyncio.Event()
        self._load = load
        # Submissions that no load knows of yet, by their number among all sessions' and by slot;
        # and the newest slot that the load does know of.
        self._untold: deque[tuple[int, int]] = deque()
        self._newest_slot = 0
        # Rows that wait for more, by slot and together; when gradual news came that waits, too.
        self._held: dict[int, int] = {}
        self._num_held = 0
        self._gradual_since: float | None = None
        self._wake_timer: asyncio.TimerHandle | None = None
        self._held_timer: asyncio.TimerHandle | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self._begin_frame()

    # --- streams ---

    def attach(self, stream: GatewayStream) -> None:
        """Frames go to this stream from now on; those are left out that went to another."""
        self.detach()
        self.stream = stream
        self._load_due = True
        self.wake.set()
        self._beat_later()

    def detach(self) -> None:
        """There is no stream: the slots keep what is pending."""
        self.stream = None
        self._hold_nothing()
        self._begin_frame()
        if self._beat_timer is not None:
            self._beat_timer.cancel()
            self._beat_timer = None

    def _beat_later(self) -> None:
        self._beat_timer = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        """Send a frame, an empty one if need be."""
        self._beat_due = True
        self.wake.set()
        self._beat_later()

    # --- news ---

    def submit(self, submit: session_pb2.Submit, number: int) -> None:
        """A submission, the so-many-th of all sessions'."""
        self.slots[submit.slot] = SlotLog(submit)
        self._untold.append((number, submit.slot))

    def drop(self, slot_id: int) -> bool:
        """No more of a submission is wanted; whether it was known."""
        self._due.pop(slot_id, None)
        self._num_held -= self._held.pop(slot_id, 0)
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
            return
        self._held[slot_id] = self._held.get(slot_id, 0) + 1
        self._num_held += 1
        if self._num_held >= MAX_HELD_ROWS:
            self.send_held()
        elif self._held_timer is None:
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

    def add_load(self, load: session_pb2.Load, news: LoadNews, num_submitted: int) -> None:
        """The newest load, which counts the first so many submissions of all sessions."""
        self._load = load
        before = self._newest_slot
        while self._untold and self._untold[0][0] <= num_submitted:
            _, self._newest_slot = self._untold.popleft()
        if self.stream is None:
            return
        if load.draining or load.short_of_blocks:
            # What is moved from here goes on from what its gateway has.
            self.send_held()
        if news is LoadNews.SUDDEN or self._newest_slot != before:
            self._load_due = True
            self._send_within(COMPANY_WAIT_S)
        elif news is LoadNews.GRADUAL and self._gradual_since is None:
            self._gradual_since = time.monotonic()
            self._send_within(HELD_WAIT_S)

    def send_held(self) -> None:
        """Send all rows that wait for more."""
        if self._held:
            self._due |= {slot_id: self.slots[slot_id] for slot_id in self._held}
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

    def take_frame(self) -> session_pb2.Frame | None:
        """All that is pending as one frame."""
        for slot_id, slot in self._due.items():
            slot.take(slot_id, self._columns)
            self._num_held -= self._held.pop(slot_id, 0)
        now = time.monotonic()
        waits_since = self._gradual_since
        is_old = waits_since is not None and now - waits_since >= GRADUAL_WAIT_S
        load = self._load if self._load_due or is_old else None
        if not self._columns and not self._events and load is None and not self._beat_due:
            return None
        frame = self._columns.frame()
        for slot_event, since in self._events:
            if slot_event.kind == SlotEvent.KIND_SCHEDULED:
                slot_event.age_s += now - since
            frame.events.append(slot_event)
        self._begin_frame()
        if load is not None:
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
        self._num_held = 0
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
