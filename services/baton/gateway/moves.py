"""Moves running sequences between workers: who goes where and when (`router.rebalance` decides).

A move stays inside the request's attempt. The heir gets a Submit with the output so far, the worker
that decodes is told to Migrate; both go on until one of them says how it ended. Whatever becomes of
the heir before it has adopted costs nothing but another try.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baton.core.clock import Clock
from baton.core.errors import BatonError
from baton.gateway.ownership import Side
from baton.gateway.part import Part
from baton.gateway.workers.fleet import Fleet
from baton.router.pool import Booking
from baton.router.rebalance import (
    RunningSlot,
    SlotMove,
    UnderWay,
    must_be_replayed,
    rebalance,
)
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics
from baton.v1 import session_pb2
from baton.wire.request import HANDOFF_ID_BYTES

if TYPE_CHECKING:
    from baton.gateway.running import Running

log = logging.getLogger(__name__)

# Time between two looks while a worker is under strain; a move that ended is followed at once.
LOOK_S = 0.1
# Wait before a sequence whose move failed is moved again; doubles each time.
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 15.0
# How long a sequence stays where it was moved, unless that worker drains.
REST_S = 30.0
# After a move for balance, until the giver's reports show what it freed.
RELIEF_PAUSE_S = 1.0

# (request, the heir's booking, handoff id, booking of who decodes): sends the heir's Submit.
SubmitHeir = Callable[["Running", Booking, bytes, Booking], Part]
# (request, the part whose worker is about to go): begins another attempt elsewhere.
Replay = Callable[["Running", Part], None]


@dataclass(slots=True)
class Move:
    """One under way: from the part that decodes to its heir."""

    origin: Part
    heir: Part
    handoff_id: bytes
    reason: str
    num_blocks: int
    began_at: float


@dataclass(slots=True)
class MoveRecord:
    """What a request remembers of its moves."""

    current: Move | None = None
    num_failures: int = 0
    # Instants until which it is not moved at all, and not for balance.
    not_before: float = 0.0
    rests_until: float = 0.0


_NEVER_MOVED = MoveRecord()


class Moves:
    """Starts moves while some worker drains or lacks blocks. Lives on the event loop."""

    def __init__(
        self,
        fleet: Fleet,
        running: Collection[Running],
        submit_heir: SubmitHeir,
        replay: Replay,
        max_moves: int,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._pool = fleet.pool
        self._running = running
        self._submit_heir = submit_heir
        self._replay = replay
        self._max_moves = max_moves
        self._metrics = metrics
        self._clock = clock
        self._under_way: dict[Running, Move] = {}
        # Row to the instant until which nothing more leaves it for balance.
        self._relieved: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        fleet.on_strain = self.look_later

    def close(self) -> None:
        """Start no more."""
        self._fleet.on_strain = lambda: None
        self._stop_timer()

    def look_later(self, delay_s: float = LOOK_S) -> None:
        """See soon whether something has to move, unless that is planned already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- starting ---

    def _look(self) -> None:
        self._timer = None
        columns = self._pool.columns
        strained = columns.up & (columns.draining | columns.short_of_blocks)
        if not strained.any():
            return
        now = self._clock()
        left_s = {row: at - now for row, at in self._fleet.leaves_at.items()}
        waits = self._replay_lost_causes(left_s)
        candidates: list[tuple[Running, Part]] = []
        slots: list[RunningSlot] = []
        concerned = waits
        for running in self._running:
            part = running.decoder
            if part is None or not strained[part.booking.row]:
                continue
            concerned = True
            record = running.moves or _NEVER_MOVED
            if record.current is None and now >= record.not_before and running.is_movable:
                row = part.booking.row
                rests_until = max(record.rests_until, self._relieved.get(row, 0.0))
                candidates.append((running, part))
                slots.append(self._slot(running, row, now >= rests_until))
        for move in rebalance(columns, slots, self._counts(), self._max_moves, left_s):
            running, part = candidates[move.slot]
            self._start(running, part, move, slots[move.slot].num_blocks, now)
        if concerned:
            self.look_later()

    def _replay_lost_causes(self, left_s: Mapping[int, float]) -> bool:
        """Replay what cannot be moved in time; whether something is on a worker that leaves."""
        if not left_s:
            return False
        columns = self._pool.columns
        waits = False
        for running in list(self._running):
            for part in list(running.parts):
                row = part.booking.row
                if part.is_closed or part.side is Side.HEIR or row not in left_s:
                    continue
                waits = True
                if must_be_replayed(columns, row, left_s[row]):
                    self._replay(running, part)
                    break
        return waits

    def _slot(self, running: Running, row: int, is_rested: bool) -> RunningSlot:
        ownership = running.ownership
        block_size = int(self._pool.columns.block_size[row])
        sampling = ownership.request.sampling
        return RunningSlot(
            row,
            # With room for what it grows by while it is copied.
            ownership.num_tokens // block_size + 2,
            sampling.max_tokens - ownership.num_output_tokens,
            is_rested,
        )

    def _counts(self) -> UnderWay:
        giving: Counter[int] = Counter()
        taking: Counter[int] = Counter()
        blocks: Counter[int] = Counter()
        for move in self._under_way.values():
            origin = move.origin.booking.row
            giving[origin] += 1
            blocks[origin] += move.num_blocks
            taking[move.heir.booking.row] += 1
        return UnderWay(giving, taking, blocks)

    def _start(
        self, running: Running, origin: Part, chosen: SlotMove, num_blocks: int, now: float
    ) -> None:
        handoff_id = secrets.token_bytes(HANDOFF_ID_BYTES)
        booking = self._pool.book(chosen.target, sequences=1, tokens=0, blocks=num_blocks)
        heir = self._submit_heir(running, booking, handoff_id, origin.booking)
        origin.session.migrate(
            session_pb2.Migrate(
                slot=origin.slot,
                next_position=running.ownership.num_output_tokens,
                handoff_id=handoff_id,
                peer=heir.session.worker,
            )
        )
        running.parts.append(heir)
        if running.moves is None:
            running.moves = MoveRecord()
        move = Move(origin, heir, handoff_id, chosen.reason, num_blocks, now)
        running.moves.current = self._under_way[running] = move

    # --- ends ---

    def taken_over(self, running: Running) -> None:
        """The heir has adopted."""
        move, record = self._end(running, "moved")
        # Only its last rows are still to come.
        move.origin.side = Side.SOURCE
        record.num_failures = 0
        now = self._clock()
        record.rests_until = now + REST_S
        self._relieved[move.origin.booking.row] = now + RELIEF_PAUSE_S
        self._metrics.move_duration.observe(now - move.began_at)
        self._log("moved", running, move, seconds=round(now - move.began_at, 4))

    def failed(self, running: Running, error: BatonError) -> None:
        """The sequence goes on where it is; try again later."""
        move, record = self._end(running, "failed")
        move.heir.stop()
        running.parts.remove(move.heir)
        backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**record.num_failures)
        record.num_failures += 1
        record.not_before = self._clock() + backoff_s
        self._log("move_failed", running, move, code=error.code, message=error.message)

    def _log(self, name: str, running: Running, move: Move, **fields: Any) -> None:
        log.info(
            *event(
                name,
                request_id=running.request.request_id,
                origin=move.origin.session.worker.worker_id,
                heir=move.heir.session.worker.worker_id,
                reason=move.reason,
                **fields,
            )
        )

    def dropped(self, running: Running) -> None:
        """The request or its attempt has ended: the caller stops all parts."""
        if running in self._under_way:
            self._end(running, "ended")

    def _end(self, running: Running, outcome: str) -> tuple[Move, MoveRecord]:
        move, record = self._under_way.pop(running), running.moves
        assert record is not None, "it is made with the first move"
        record.current = None
        self._metrics.moves.labels(move.reason, outcome).inc()
        if self._timer is not None:
            # There is room for another.
            self._stop_timer()
            self.look_later(0.0)
        return move, record
