"""Workers that may serve a model now, by digest and role: what each choice starts from."""

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
    """Workers of one digest, which could all exchange KV. `generating`: those that can decode."""

    prefill: RowSet
    decode: RowSet
    both: RowSet
    generating: RowSet
    everyone: RowSet

    def without(self, rows: frozenset[int]) -> Group:
        return Group(
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
    """The candidates, grouped."""
    rows = candidates(columns, model)
    digests = columns.digest[rows]
    # `np.unique` would import a large part of numpy while the first request waits.
    found = sorted(set(digests.tolist()))
    return tuple(_group(columns, rows[digests == digest]) for digest in found)


def _group(columns: Columns, rows: RowNumbers) -> Group:
    role = columns.role[rows]
    return Group(
        prefill=RowSet(rows[role == _PREFILL]),
        decode=RowSet(rows[role == _DECODE]),
        both=RowSet(rows[role == _ANY]),
        generating=RowSet(rows[role != _PREFILL]),
        everyone=RowSet(rows),
    )
