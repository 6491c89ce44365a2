"""Conditions as kubectl, kstatus and Argo read them: what was found, joined to what stood there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from baton_operator.actions import Emit
from baton_operator.decide.text import cut, time_text

Answer = Literal["True", "False", "Unknown"]
BAD_WHEN_TRUE = frozenset({"Stalled", "Degraded"})
NEUTRAL = frozenset({"Progressing"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is found about one condition."""

    type: str
    status: Answer
    reason: str
    message: str = ""


def verdict(type: str, holds: bool, reason: str, message: str = "") -> Verdict:
    return Verdict(type, "True" if holds else "False", reason, message)


def joined(
    before: Sequence[Mapping[str, Any]],
    found: Iterable[Verdict],
    generation: int,
    now_s: float,
) -> list[dict[str, Any]]:
    """The new list. The time of a condition moves only with its status."""
    known = {each["type"]: each for each in before}
    result = []
    for each in found:
        old = known.get(each.type)
        same = old is not None and old["status"] == each.status
        result.append(
            {
                "type": each.type,
                "status": each.status,
                "reason": each.reason,
                "message": cut(each.message),
                "lastTransitionTime": old["lastTransitionTime"]
                if same and old is not None
                else time_text(now_s),
                "observedGeneration": generation,
            }
        )
    return result


def transitions(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[Emit]:
    """An event for each condition that has turned, or that is bad for another reason than before.

    A condition that is new and as good as could be is no news.
    """
    known = {each["type"]: each for each in before}
    events = []
    for each in after:
        old = known.get(each["type"])
        bad = _is_bad(each, old)
        turned = old is not None and old["status"] != each["status"]
        other_reason = bad and old is not None and old["reason"] != each["reason"]
        if turned or other_reason or (old is None and bad):
            text = f"{each['type']} is {each['status']}"
            message = f"{text}: {each['message']}" if each["message"] else text
            events.append(Emit("Warning" if bad else "Normal", each["reason"], message))
    return events


def _is_bad(condition: Mapping[str, Any], old: Mapping[str, Any] | None) -> bool:
    kind, status = condition["type"], condition["status"]
    if kind in NEUTRAL:
        return False
    if kind in BAD_WHEN_TRUE:
        return bool(status == "True")
    # What has not come up yet is not bad; what was there is.
    return bool(status == "False" and old is not None and old["status"] == "True")
