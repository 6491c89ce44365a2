"""The engine as its handoffs see it, and what gateways are to be told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.core.errors import BatonError
from baton.core.request import Request
from baton.engine.engine import Engine
from baton.engine.outputs import Key, TokenRow
from baton.transfer.base import HandoffTiming, ReservedGroup, SourceOutput
from baton.v1 import session_pb2

SlotEvent = session_pb2.SlotEvent


class EngineHost:
    """`transfer.base.HandoffHost`: forwards to the engine and collects slot events.

    Lives on the engine's thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._events: list[tuple[Key, SlotEvent]] = []
        self._first_tokens: dict[Key, dict[int, SourceOutput]] = {}
        # Submissions that this worker computes for another.
        self.sources: set[Key] = set()
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
    ) -> tuple[ReservedGroup, ...] | None:
        reserved = self._engine.reserve(key, request, num_tokens, hashes, num_blocks)
        if reserved is None:
            return None
        return tuple(ReservedGroup(r.block_ids, r.generations, r.skip) for r in reserved)

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        live = {c: out.tokens for c, out in outputs.items() if out.finish is None}
        self._engine.adopt(key, live)

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

    # --- both ---

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        event = SlotEvent(kind=SlotEvent.KIND_HANDED_OFF)
        event.handoff.grant_wait_s = timing.grant_wait_s
        event.handoff.transfer_s = timing.transfer_s
        event.handoff.verify_s = timing.verify_s
        event.handoff.bytes = timing.num_bytes
        self.note(key, event)

    def failed(self, key: Key, error: BatonError) -> None:
        self._engine.abort(key)
        self._forget(key)
        self.note(
            key,
            SlotEvent(
                kind=SlotEvent.KIND_FAILED,
                code=error.code,
                message=error.message,
                retryable=error.retryable,
            ),
        )

    # --- the loop's side ---

    def note(self, key: Key, event: SlotEvent) -> None:
        """Queue an event for the key's gateway."""
        event.slot = key[1]
        self._events.append((key, event))

    def take_events(self) -> list[tuple[Key, SlotEvent]]:
        events, self._events = self._events, []
        return events

    def note_first_tokens(self, rows: Sequence[TokenRow]) -> None:
        """Remember what sources sampled, for their Commit."""
        for row in rows:
            if row.key in self.sources:
                choices = self._first_tokens.setdefault(row.key, {})
                choices[row.choice] = SourceOutput((row.token,), row.finish)

    def take_outputs(self, key: Key) -> dict[int, SourceOutput]:
        return self._first_tokens.pop(key, {})

    def _forget(self, key: Key) -> None:
        self.sources.discard(key)
        self._first_tokens.pop(key, None)
