"""How much of a prompt each worker's caches hold: what overlap-aware policies ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from baton.core.block_hash import IndexKeys
from baton.core.clock import Clock
from baton.gateway.workers.prompt_hashes import HashScope, PromptHashes
from baton.router.pool import Pool
from baton.router.prefix_index import Overlap


class HashScopes:
    """The hash scopes of each model's workers: one, but while a pool is being rolled."""

    def __init__(self) -> None:
        self._of_row: dict[int, tuple[str, HashScope]] = {}
        self._of_model: dict[str, Counter[HashScope]] = {}

    def add(self, row: int, model: str, scope: HashScope) -> None:
        """A worker is indexed from now on."""
        self._of_row[row] = (model, scope)
        self._of_model.setdefault(model, Counter())[scope] += 1

    def remove(self, row: int) -> None:
        """A worker is indexed no longer."""
        model, scope = self._of_row.pop(row)
        counts = self._of_model[model]
        counts[scope] -= 1
        if not counts[scope]:
            del counts[scope]
        if not counts:
            del self._of_model[model]

    def of_model(self, model: str) -> list[HashScope]:
        return list(self._of_model.get(model, ()))

    def of_row(self, row: int) -> HashScope | None:
        """None when the worker is not indexed."""
        found = self._of_row.get(row)
        return None if found is None else found[1]


class AskedIndex(Protocol):
    """An index of this process, or one that it shares with others: as PrefixIndex's."""

    def match(self, keys: IndexKeys, now: float, num_rows: int | None = None) -> Overlap:
        """Who holds how much of a prompt."""

    def predict(self, row: int, keys: IndexKeys, now: float) -> None:
        """A worker was just given a prompt."""


class PrefixLookup:
    """Asks the index about requests, and tells it where they went."""

    def __init__(self, index: AskedIndex, scopes: HashScopes, pool: Pool, clock: Clock) -> None:
        self._index = index
        self._scopes = scopes
        self._pool = pool
        self._clock = clock

    def overlap(
        self, model: str, hashes: PromptHashes, output: Sequence[int] = ()
    ) -> Overlap | None:
        """Blocks of a request that each worker has, for RequestView.overlap; None when no worker
        of its model is indexed.

        The arrays have a row for each of the pool's columns. At least one token is left out, since
        a worker always computes the last one. `output` is what a replay brings besides the prompt:
        the tokens so far of its only choice, or nothing where choices differ.
        """
        scopes = self._scopes.of_model(model)
        if not scopes:
            return None
        now, num_rows = self._clock(), len(self._pool.columns)
        num_tokens = hashes.num_tokens(output)
        found = []
        for scope in scopes:
            keys = hashes.keys(scope, output)[: max(0, num_tokens - 1) // scope.block_size]
            found.append(self._index.match(keys, now, num_rows))
        return found[0] if len(found) == 1 else _sum(found)

    def placed(self, row: int, hashes: PromptHashes, output: Sequence[int] = ()) -> None:
        """A worker was given the request: its siblings will find all its blocks there soon.

        Call it for both workers of a pair.
        """
        scope = self._scopes.of_row(row)
        if scope is not None:
            self._index.predict(row, hashes.keys(scope, output), self._clock())


def _sum(found: Sequence[Overlap]) -> Overlap:
    """Of matches in several scopes: each row belongs to one."""
    return Overlap(
        np.sum([o.device for o in found], axis=0),
        np.sum([o.host for o in found], axis=0),
        np.sum([o.disk for o in found], axis=0),
        max(o.best for o in found),
    )
