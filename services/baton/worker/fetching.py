"""Cached blocks from peers before a prompt is computed, and for peers that ask.

Lives on the engine's thread. Whatever comes of a fetch, the prompt goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from baton.core.errors import BatonError, OverloadedError
from baton.core.handoff import Key, MoveStopped, ReservedGroup, SourceOutput
from baton.core.request import Request
from baton.engine.engine import Engine
from baton.telemetry.logging import event
from baton.transfer.base import HandoffTiming
from baton.v1 import common_pb2

log = logging.getLogger(__name__)

# Hints that fetch at once; for more nothing is fetched.
MAX_HINTS = 64
# (key, request, peer, group, hashes): `Handoffs.fetch`.
Ask = Callable[[Key, Request, common_pb2.WorkerRef, int, Sequence[bytes]], None]


@dataclass(slots=True)
class _Prompt:
    """Waits for the fetches of its groups. `key` is that of the submission, if it is one."""

    key: Key | None
    then: Callable[[], None]
    num_left: int


@dataclass(frozen=True, slots=True)
class _Asked:
    prompt: _Prompt
    group: int
    hashes: tuple[bytes, ...]


class EngineFetchHost:
    """`transfer.fetching.FetchHost` over the engine. `freed()` hears of blocks that came free."""

    def __init__(self, engine: Engine, freed: Callable[[], None]) -> None:
        self._engine = engine
        self._freed = freed
        self._asked: dict[Key, _Asked] = {}
        # Submissions that wait.
        self._waiting: dict[Key, _Prompt] = {}
        self._num_hints = 0
        self._numbers = count(1)

    def new_key(self) -> Key:
        """One that no submission has: sessions have names."""
        return ("", next(self._numbers))

    @property
    def takes_hints(self) -> bool:
        """Whether there is room for one more prompt without a key."""
        return self._num_hints < MAX_HINTS

    def begin(
        self,
        key: Key | None,
        request: Request,
        peer: common_pb2.WorkerRef,
        ask: Ask,
        then: Callable[[], None],
    ) -> None:
        """Fetch what `peer` may have of a prompt and this worker has not; then go on.

        `then` may be called at once, and is called once unless `key` is dropped.
        """
        missing = [(g, hashes) for g, hashes in enumerate(self._engine.missing(request)) if hashes]
        # One more, so that nothing goes on before all have been asked for.
        prompt = _Prompt(key, then, len(missing) + 1)
        if key is not None:
            self._waiting[key] = prompt
        else:
            self._num_hints += 1
        for group, hashes in missing:
            fetch = self.new_key()
            self._asked[fetch] = _Asked(prompt, group, tuple(hashes))
            try:
                ask(fetch, request, peer, group, hashes)
            except BatonError as error:
                self.failed(fetch, error)
        self._count_down(prompt)

    def drop(self, key: Key) -> None:
        """The submission is wanted no more. What is fetched for it comes all the same."""
        self._waiting.pop(key, None)

    # --- the side that asks ---

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int,
    ) -> tuple[ReservedGroup, ...] | None:
        asked = self._asked[key]
        reserved = self._engine.fetches.reserve(key, asked.group, asked.hashes, hashes, num_blocks)
        if reserved is None:
            raise OverloadedError("no free KV blocks for what was fetched")
        return reserved

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, SourceOutput],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        self._engine.fetches.check_commit(key, hashes, num_blocks)

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        self._engine.fetches.adopt(key)

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        self._engine.unreserve(key, quarantine=quarantine)
        self._freed()

    def lift_quarantine(self, key: Key) -> None:
        self._engine.lift_quarantine(key)
        self._freed()

    # --- the side that is asked ---

    def lend(self, key: Key, group: int, hashes: Sequence[bytes]) -> tuple[int, ...]:
        return self._engine.fetches.lend(key, group, hashes)

    def granted(self, key: Key) -> None:
        """What is lent is there already."""

    def release(self, key: Key) -> None:
        self._engine.fetches.release(key)
        self._freed()

    def stop_move(self, key: Key) -> MoveStopped | None:
        """Nothing grows here."""
        return None

    def in_doubt(self, key: Key, error: BatonError) -> None:
        """Whether the peer has it or not, it is here too."""

    # --- both ---

    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        self._over(key)

    def withdrawn(self, key: Key) -> None:
        self._over(key)

    def failed(self, key: Key, error: BatonError) -> None:
        self._over(key)

    def _over(self, key: Key) -> None:
        """A fetch has ended; those that were only lent for are nobody's here."""
        asked = self._asked.pop(key, None)
        if asked is not None:
            log.debug(*event("fetch_ended", fetch=key[1], blocks=len(asked.hashes)))
            self._count_down(asked.prompt)

    def _count_down(self, prompt: _Prompt) -> None:
        prompt.num_left -= 1
        if prompt.num_left:
            return
        if prompt.key is None:
            self._num_hints -= 1
            prompt.then()
        elif self._waiting.pop(prompt.key, None) is prompt:
            prompt.then()
