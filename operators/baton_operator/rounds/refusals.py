"""What the API server would not have of one service: told on, and tried again ever more seldom.

Each refused action waits for itself, so that one object that an admission policy denies holds up
nothing else of its service. An action that asks for something else now is tried at once, and so is
everything after a change of the spec, which may have been meant to mend it. Pure; times are
seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton_operator.actions import (
    Action,
    Apply,
    Delete,
    MarkVictim,
    PatchStatus,
    Scale,
    SetPoolReplicas,
)
from baton_operator.names import POOL_KIND
from baton_operator.seen import Refused

Target = tuple[str, str, str]
"""What is done, to which kind of object, of which name."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    action: Action
    told: Refused
    failures: int
    not_before: float


class Refusals:
    """`held_back` before a round's actions are performed, `note` after."""

    def __init__(self, backoff: Callable[[int], float]) -> None:
        """`backoff`: seconds to wait after so many refusals in a row."""
        self._backoff = backoff
        self._generation: int | None = None
        self._refusals: dict[Target, _Refusal] = {}

    def begin(self, generation: int) -> None:
        """A round of this generation of the service."""
        if generation != self._generation:
            self._refusals.clear()
        self._generation = generation

    @property
    def told(self) -> tuple[Refused, ...]:
        return tuple(each.told for each in self._refusals.values())

    def held_back(self, actions: Sequence[Action], now: float) -> list[Action]:
        """Those that were refused as they are, and are to wait still."""
        held = []
        for action in actions:
            known = self._refusals.get(target(action))
            if known is not None and known.action == action and now < known.not_before:
                held.append(action)
        return held

    def note(
        self, held: Sequence[Action], refused: Sequence[tuple[Action, Refused]], now: float
    ) -> None:
        """How the round went; what is neither is done, or not wanted any more."""
        before, self._refusals = self._refusals, {}
        for action in held:
            self._refusals[target(action)] = before[target(action)]
        for action, told in refused:
            known = before.get(target(action))
            failures = known.failures + 1 if known else 1
            not_before = now + self._backoff(failures)
            self._refusals[target(action)] = _Refusal(action, told, failures, not_before)

    def next_s(self, now: float) -> float | None:
        """Until the soonest may be tried again; None: none waits."""
        soonest = min((each.not_before for each in self._refusals.values()), default=None)
        return None if soonest is None else max(0.0, soonest - now)


def target(action: Action) -> Target:
    what = type(action).__name__
    match action:
        case Apply(manifest=manifest):
            return what, manifest["kind"], manifest["metadata"]["name"]
        case Scale() | Delete() | PatchStatus():
            return what, action.kind, action.name
        case SetPoolReplicas():
            return what, POOL_KIND, action.name
        case MarkVictim():
            return what, "Pod", action.pod
        case _:
            return what, what, ""
