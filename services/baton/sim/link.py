"""What a simulated worker sends: to each peer in order, and peers share the wire.

As our workers do it: a thread for each peer writes one thing after the other, so what goes to one
peer does not wait for what goes to another; and a step's KV is sent by groups of layers, those of
all its prompts before the next group's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.sim.clock import EventLoop, Phase

# Peers take turns by parts of so many tokens.
PART_TOKENS = 2048


@dataclass(slots=True)
class _Part:
    ready_at: float
    lane: int
    seconds: float
    # Of the last part: whom to tell when it has arrived.
    on_sent: Callable[[], None] | None
    starts_at: float = 0.0
    ends_at: float = 0.0
    told_at: float = -1.0


class Link:
    """One worker's; `token_s` is the time that a token's KV takes on the idle wire."""

    def __init__(self, token_s: float, layer_groups: int, loop: EventLoop) -> None:
        self._token_s = token_s
        self._layer_groups = layer_groups
        self._loop = loop
        # When what has begun is over, and whose it is.
        self._free_at = 0.0
        self._lane = -1
        # What came in at this instant, and what has not begun, in the order in which it will.
        self._new: list[_Part] = []
        self._plan: deque[_Part] = deque()

    def send(
        self,
        lane: int,
        num_tokens: int,
        on_sent: Callable[[], None] | None = None,
        *,
        over_s: float = 0.0,
    ) -> None:
        """Queue the KV of `num_tokens` tokens for peer `lane`; `on_sent()` when it has arrived.

        It was computed within the last `over_s` seconds layer by layer, and parts of it were ready
        before.
        """
        if not num_tokens and on_sent is None:
            return
        now, num_groups = self._loop.now, self._layer_groups
        if not self._new:
            self._loop.at(now, Phase.END, self._replan)
        num_parts = num_groups if over_s else max(1, -(-num_tokens // PART_TOKENS))
        seconds = num_tokens * self._token_s / num_parts
        for part in range(1, num_parts + 1):
            ready_at = now - over_s * (1 - part / num_parts)
            is_last = part == num_parts
            self._new.append(_Part(ready_at, lane, seconds, on_sent if is_last else None))

    def _replan(self) -> None:
        """Put what is new behind what waits in its lane."""
        now, plan = self._loop.now, self._plan
        while plan and plan[0].starts_at < now:
            part = plan.popleft()
            self._free_at, self._lane = part.ends_at, part.lane
        lanes: dict[int, deque[_Part]] = {}
        for part in (*plan, *sorted(self._new, key=lambda part: part.ready_at)):
            lanes.setdefault(part.lane, deque()).append(part)
        self._new.clear()
        plan.clear()
        turns = deque(sorted(lanes.values(), key=lambda lane: lane[0].lane == self._lane))
        at = self._free_at
        while turns:
            # The first in turn of which something is ready.
            at = max(at, min(lane[0].ready_at for lane in turns))
            while turns[0][0].ready_at > at:
                turns.rotate(-1)
            part = turns[0].popleft()
            part.starts_at = at
            at += part.seconds
            plan.append(part)
            part.ends_at = at
            if part.on_sent is not None and part.told_at != max(at, now):
                self._tell_at(part, max(at, now))
            if turns[0]:
                turns.rotate(-1)
            else:
                turns.popleft()

    def _tell_at(self, part: _Part, when: float) -> None:
        """Unless something that comes between puts it off."""

        def tell() -> None:
            if part.on_sent is not None and part.told_at == when:
                on_sent, part.on_sent = part.on_sent, None
                on_sent()

        part.told_at = when
        self._loop.at(when, Phase.END, tell)
