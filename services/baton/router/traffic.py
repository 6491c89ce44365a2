"""How new requests are split between the revisions of a rollout, and which one a request goes to.

A revision's share is its weight where an operator has set weights, else its ready capacity: the
sequences that its generating workers batch. One that lacks a role that a complete one has (the
first workers of a new revision) gets nothing, and what it would have got goes to the others, so a
weight never fails a request.

Which one a request tries first is drawn by its id (weighted rendezvous hashing: each revision draws
a number from the hash, the least number divided by its share wins), so all gateways agree without
talking, and a share that changes moves no more requests than it has to. When that one is full, the
request tries the others that have a share, in the order of their numbers: a small share never holds
up the queue.

Once a request has tokens, it stays in its revision, or goes on where the digest is the same; where
neither has a worker left, it goes on anywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baton.router.columns import Array, Columns
from baton.router.groups import Group


@dataclass(frozen=True, slots=True)
class Revision:
    """Its workers that take requests now. `capacity`: sequences of those that generate."""

    name: str
    has_prefill: bool
    has_decode: bool
    has_both: bool
    capacity: int

    @property
    def generates(self) -> bool:
        return self.has_decode or self.has_both


def shares(revisions: Sequence[Revision], weights: Mapping[str, float]) -> list[float]:
    """Each revision's share of new requests; they add up to 1 unless nobody generates.

    `weights` may name revisions that are not there, and leave some out, which count as 0 then. When
    those that could serve have no weight at all, capacity decides.
    """
    pairs = any(r.has_prefill and r.has_decode for r in revisions)
    able = [r.has_both or (r.has_decode and (r.has_prefill or not pairs)) for r in revisions]
    if not any(able):
        able = [r.generates for r in revisions]
    parts = [weights.get(r.name, 0.0) if a else 0.0 for r, a in zip(revisions, able, strict=True)]
    if not sum(parts):
        parts = [max(1, r.capacity) if a else 0 for r, a in zip(revisions, able, strict=True)]
    whole = sum(parts)
    return [part / whole if whole else 0.0 for part in parts]


def order(request_id: str, named_shares: Mapping[str, float]) -> list[str]:
    """Revisions with a share, the one to try first at the head. The same for the same arguments."""
    drawn = sorted(
        (-math.log(_uniform(request_id, name)) / share, name)
        for name, share in named_shares.items()
        if share > 0
    )
    return [name for _, name in drawn]


def _uniform(request_id: str, name: str) -> float:
    """Above 0 and at most 1."""
    text = f"{request_id}\0{name}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return (number + 1) / 2**64


class Split:
    """The revisions of one model as they are now. Made when there are several."""

    def __init__(
        self,
        columns: Columns,
        groups: Sequence[Group],
        names: Mapping[int, str],
        weights: Mapping[str, float],
    ) -> None:
        """`names` of the revisions by number; `groups` in their order."""
        self._groups = groups
        by_name: dict[str, list[Group]] = {}
        for group in groups:
            by_name.setdefault(names[group.revision], []).append(group)
        self._by_name = {name: tuple(found) for name, found in by_name.items()}
        revisions = [_seen(name, found, columns) for name, found in self._by_name.items()]
        found = shares(revisions, weights)
        self.shares = {r.name: share for r, share in zip(revisions, found, strict=True)}

    def turns(self, request_id: str, began_in: tuple[int, int] | None) -> list[tuple[Group, ...]]:
        """The groups that a request may go to: the best of the first that has room takes it.

        `began_in`: revision and digest, as numbers, of the worker that gave it its tokens so far.
        """
        if began_in is not None:
            revision, digest = began_in
            alike = [g for g in self._groups if g.digest == digest and len(g.generating)]
            if alike:
                own = tuple(g for g in alike if g.revision == revision)
                others = tuple(g for g in alike if g.revision != revision)
                return [turn for turn in (own, others) if turn]
        return [self._by_name[name] for name in order(request_id, self.shares)]


def _seen(name: str, groups: Sequence[Group], columns: Columns) -> Revision:
    generating: Array = columns.max_sequences
    return Revision(
        name,
        has_prefill=any(len(g.prefill) for g in groups),
        has_decode=any(len(g.decode) for g in groups),
        has_both=any(len(g.both) for g in groups),
        capacity=sum(int(generating[g.generating.numbers].sum()) for g in groups),
    )
