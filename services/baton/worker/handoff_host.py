"""The engine as its handoffs see it, and what gateways are to be told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.core.clock import Clock, monotonic
from baton.core.errors import BatonError, HandoffError
from baton.core.handoff import Key, MoveStopped, ReservedGroup, SourceOutput
from baton.core.request import Request
from baton.engine.engine import Engine
from baton.engine.outputs import TokenRow
from baton.transfer.base import HandoffTiming
from baton.v1 import session_pb2

SlotEvent = session_pb2.SlotEvent


class EngineHost:
    """`transfer.base.HandoffHost`: forwards to the engine and collects slot events.

    Lives on the engine's thread.
    """

    def __init__(self, engine: Engine, clock: Clock = monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._events: list[tuple[Key, SlotEvent]] = []
        self._first_tokens: dict[Key, dict[int, SourceOutput]] = {}
        # Submissions that this worker computes for another.
        self.sources: set[Key] = set()
        # Those that it decodes while they are copied to another, with their Migrate's handoff id.
        self.moving: dict[Key, bytes] = {}
        # Adopted, and without a token from here so far: since when, and the wait for their Offers.
        self._adopted_at: dict[Key, float] = {}
        self._offer_waits: dict[Key, float] = {}
        # Blocks came free outside a step.
        self.freed = False

    # --- target side ---

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int,
    ) -> tuple[ReservedGroup, ...] | None:
        return self._engine.reserve(key, request, num_tokens, hashes, num_blocks, growth_tokens)

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, SourceOutput],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        self._engine.check_commit(key, _live(outputs), hashes, num_blocks)

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        live = _live(outputs)
        self._engine.adopt(key, live)
        if live:
            self._adopted_at[key] = self._clock()

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        self._engine.unreserve(key, quarantine=quarantine)
        self.freed = True

    def lift_quarantine(self, key: Key) -> None:
        self._engine.lift_quarantine(key)
        self.freed = True

    # --- source side ---

    def granted(self, key: Key) -> None:
        self._engine.grant(key)

    def release(self, key: Key) -> None:
        self._engine.release(key)
        self._forget(key)
        self.freed = True

    def stop_move(self, key: Key) -> MoveStopped | None:
        return self._engine.stop_move(key)

    def in_doubt(self, key: Key, error: BatonError) -> None:
        self.moving.pop(key, None)
        self.failed(key, error)

    def move_failed(self, key: Key, error: BatonError) -> None:
        """The sequence goes on here, unless it has ended meanwhile."""
        handoff_id = self.moving.pop(key, None)
        self._engine.end_move(key)
        if handoff_id is not None and self._engine.request(key) is not None:
            self.note_unmoved(key, handoff_id, error)

    # --- both ---

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        event = SlotEvent(kind=SlotEvent.KIND_HANDED_OFF)
        if key in self.moving:
            event.handoff_id = self.moving.pop(key)
            self._engine.abort(key)
        if key in self._adopted_at:
            self._offer_waits[key] = timing.offer_wait_s
        event.handoff.grant_wait_s = timing.grant_wait_s
        event.handoff.transfer_s = timing.transfer_s
        event.handoff.verify_s = timing.verify_s
        event.handoff.bytes = timing.num_bytes
        event.handoff.hidden_bytes = timing.hidden_bytes
        event.handoff.exposed_s = timing.exposed_s
        event.handoff.transport = timing.transport
        self.note(key, event)

    def withdrawn(self, key: Key) -> None:
        """The source's rows say how it ended."""
        self.moving.pop(key, None)

    def failed(self, key: Key, error: BatonError) -> None:
        if key in self.moving:
            self.move_failed(key, error)
            return
        self._engine.abort(key)
        self._forget(key)
        self.note(key, _failure(SlotEvent.KIND_FAILED, error))

    # --- the loop's side ---

    def note_freed(self) -> None:
        """Blocks came free outside a step."""
        self.freed = True

    def note(self, key: Key, event: SlotEvent) -> None:
        """Queue an event for the key's gateway."""
        event.slot = key[1]
        self._events.append((key, event))

    def take_events(self) -> list[tuple[Key, SlotEvent]]:
        events, self._events = self._events, []
        return events

    def note_unmoved(self, key: Key, handoff_id: bytes, error: BatonError) -> None:
        """Tell the key's gateway that a move came to nothing."""
        event = _failure(SlotEvent.KIND_MOVE_FAILED, error)
        event.handoff_id = handoff_id
        self.note(key, event)

    def note_first_tokens(self, rows: Sequence[TokenRow]) -> None:
        """Remember what sources sampled, for their Commit."""
        for row in rows:
            if row.key in self.sources:
                choices = self._first_tokens.setdefault(row.key, {})
                choices[row.choice] = SourceOutput((row.token,), row.finish)

    def note_first_steps(self, rows: Sequence[TokenRow]) -> None:
        """Say how long adopted submissions took to their first token."""
        for row in rows:
            adopted_at = self._adopted_at.pop(row.key, None)
            if adopted_at is not None:
                event = SlotEvent(kind=SlotEvent.KIND_FIRST_STEP)
                event.handoff.first_step_s = self._clock() - adopted_at
                event.handoff.offer_wait_s = self._offer_waits.pop(row.key, 0.0)
                self.note(row.key, event)

    def forget_adopted(self, key: Key) -> None:
        """It ended, or is wanted no more."""
        self._adopted_at.pop(key, None)
        self._offer_waits.pop(key, None)

    def take_outputs(self, key: Key) -> dict[int, SourceOutput]:
        return self._first_tokens.pop(key, {})

    def _forget(self, key: Key) -> None:
        self.sources.discard(key)
        self._first_tokens.pop(key, None)
        self.forget_adopted(key)


def _live(outputs: Mapping[int, SourceOutput]) -> dict[int, tuple[int, ...]]:
    """The choices that go on."""
    return {choice: out.tokens for choice, out in outputs.items() if out.finish is None}


def _failure(kind: session_pb2.SlotEvent.Kind, error: BatonError) -> SlotEvent:
    event = SlotEvent(kind=kind, code=error.code, message=error.message, retryable=error.retryable)
    event.handoff.reason = error.reason if isinstance(error, HandoffError) else error.code
    return event
