"""The calls that a gateway remembers: the newest, and beside them the newest slow or failed.

What others remember is in the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

from baton.core.clock import Clock, monotonic
from baton.core.settings import RecordSettings
from baton.gateway.answer.base import Answer, OpenAnswers
from baton.gateway.records import explain
from baton.gateway.records.call_record import CallRecord, is_slow
from baton.gateway.request_id import may_have_record


def _no_one(_: CallRecord) -> None:
    """Where nothing is written down for others."""


async def _nothing(_: str) -> None:
    """Where others write nothing down."""


class RecordBook:
    """Bounded: at most twice `settings.keep` records. `on_kept` hears of each, to pass it on;
    `read_stored` asks the store for one, as a document.
    """

    def __init__(
        self,
        settings: RecordSettings,
        answers: OpenAnswers,
        on_kept: Callable[[CallRecord], None] = _no_one,
        read_stored: Callable[[str], Awaitable[dict[str, Any] | None]] = _nothing,
        clock: Clock = monotonic,
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._on_kept = on_kept
        self._read_stored = read_stored
        self._clock = clock
        # By their own ids, oldest first.
        self._recent: dict[str, CallRecord] = {}
        self._special: dict[str, CallRecord] = {}
        # Other ids to own ones. A client may use one twice: the last call has it.
        self._aliases: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._recent.keys() | self._special.keys())

    def ended(self, answer: Answer) -> None:
        """Remember a call whose answer is over."""
        settings = self._settings
        if not settings.keep:
            return
        record = CallRecord(answer, self._clock())
        record.is_slow = is_slow(record, settings.slow_first_token_s, settings.slow_gap_s)
        self._recent[record.call_id] = record
        if record.is_slow or record.is_failed:
            self._special[record.call_id] = record
            self._trim(self._special, self._recent)
        for name in record.aliases:
            self._aliases[name] = record.call_id
        self._trim(self._recent, self._special)
        self._on_kept(record)

    def find(self, name: str) -> CallRecord | None:
        """By any of its ids; calls that go on are known, too."""
        call_id = self._aliases.get(name, name)
        kept = self._recent.get(call_id) or self._special.get(call_id)
        if kept is not None:
            return kept
        # Rare, and there are thousands at most.
        now = self._clock()
        for answer in self._answers:
            if answer.request_id == name or any(
                sink.request.request_id == name for sink in answer.sinks
            ):
                return CallRecord(answer, now)
        return None

    async def document(self, name: str) -> dict[str, Any] | None:
        """One call explained, by any of its ids: from memory, else from the store.

        Raises StoreUnavailableError.
        """
        record = self.find(name)
        if record is not None:
            return explain.document(record)
        return await self._read_stored(name) if may_have_record(name) else None

    def newest(self, limit: int, *, slow: bool, failed: bool) -> list[CallRecord]:
        """The newest first; only slow or failed ones where either is asked for."""
        return list(islice(self._newest(slow, failed), limit))

    def _newest(self, slow: bool, failed: bool) -> Iterator[CallRecord]:
        if not slow and not failed:
            yield from reversed(self._recent.values())
            return
        for record in reversed(self._special.values()):
            if (slow and record.is_slow) or (failed and record.is_failed):
                yield record

    def _trim(self, ring: dict[str, CallRecord], other: dict[str, CallRecord]) -> None:
        while len(ring) > self._settings.keep:
            record = ring.pop(next(iter(ring)))
            if record.call_id in other:
                continue
            for name in record.aliases:
                if self._aliases.get(name) == record.call_id:
                    del self._aliases[name]
