"""Workers that may serve a model now, by revision, digest and role: what a choice starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from baton.router.columns import Columns, Role, RowNumbers, Rows

# As plain numbers: with a member of an enum, numpy takes six times as long to compare.
_PREFILL, _DECODE, _ANY = map(int, (Role.PREFILL, Role.DECODE, Role.ANY))


class RowSet:
    """Rows in ascending order: as numbers, and as the cheapest index of columns."""

    __slots__ = ("index", "numbers")

    def __init__(self, numbers: RowNumbers) -> None:
        self.numbers = numbers
        self.index: Rows = numbers
        if len(numbers) and int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1:
            self.index = slice(int(numbers[0]), int(numbers[-1]) + 1)

    def __len__(self) -> int:
        return len(self.numbers)

    def without(self, rows: frozenset[int]) -> RowSet:
        return RowSet(self.numbers[~np.isin(self.numbers, list(rows))])


@dataclass(frozen=True, slots=True)
class Group:
    """Workers of one revision and digest, as numbers: pairs are formed among them.

    `generating`: those that can decode. `everyone`: all of the digest, whatever their revision, who
    could all exchange KV; a prefix may be fetched from any of them.
    """

    revision: int
    digest: int
    prefill: RowSet
    decode: RowSet
    both: RowSet
    generating: RowSet
    everyone: RowSet

    def without(self, rows: frozenset[int]) -> Group:
        return Group(
            self.revision,
            self.digest,
            self.prefill.without(rows),
            self.decode.without(rows),
            self.both.without(rows),
            self.generating.without(rows),
            self.everyone.without(rows),
        )


def candidates(columns: Columns, model: int) -> RowNumbers:
    """Rows of workers that take new requests for a model, by its interned name."""
    return np.flatnonzero(columns.used & columns.up & ~columns.draining & (columns.model == model))


def groups(columns: Columns, model: int) -> tuple[Group, ...]:
    """The candidates, grouped; those of a revision side by side."""
    rows = candidates(columns, model)
    digests, revisions = columns.digest[rows], columns.revision[rows]
    # `np.unique` would import a large part of numpy while the first request waits.
    found = sorted(set(zip(revisions.tolist(), digests.tolist(), strict=True)))
    everyone = {digest: RowSet(rows[digests == digest]) for _, digest in found}
    return tuple(
        _group(
            columns,
            revision,
            digest,
            rows[(revisions == revision) & (digests == digest)],
            everyone[digest],
        )
        for revision, digest in found
    )


def _group(
    columns: Columns, revision: int, digest: int, rows: RowNumbers, everyone: RowSet
) -> Group:
    role = columns.role[rows]
    return Group(
        revision=revision,
        digest=digest,
        prefill=RowSet(rows[role == _PREFILL]),
        decode=RowSet(rows[role == _DECODE]),
        both=RowSet(rows[role == _ANY]),
        generating=RowSet(rows[role != _PREFILL]),
        everyone=everyone,
    )
