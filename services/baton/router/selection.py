"""From scores to workers: who may take a request now, and which of them does.

A worker of role `any` serves a request alone. A decode worker is paired with a prefill worker of
the same digest, unless it had better compute the prompt itself (`router.disaggregation`); where no
prefill worker is alive, or the request asks for it, it always does, so losing the prefill pool
slows answers but does not stop them.

Where workers of several revisions serve a model, `router.traffic` says which of them a request may
go to, and in which order.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from baton.router.columns import Array, Columns, Rows
from baton.router.disaggregation import Comparison, compare
from baton.router.groups import Group, RowSet
from baton.router.policy.base import Policy, RequestView, Scores
from baton.router.pool import Booking, Pool


class Stage(NamedTuple):
    """Who was compared for `prefill`, `decode` or both (`alone`); scores are inf without room."""

    name: str
    rows: RowSet
    scores: Scores


@dataclass(slots=True)
class Selection:
    """Rows of the chosen workers. Without `prefill`, the decode worker computes the prompt.

    `fetch_from` is a row whose cached blocks the one that computes is to fetch first. `comparison`
    is there when a decode worker could have computed the prompt in place of a pair.
    """

    decode: int
    prefill: int | None
    score: float
    stages: tuple[Stage, ...]
    comparison: Comparison | None = None
    fetch_from: int | None = None

    @property
    def computing(self) -> int:
        """Row of the worker that computes the prompt."""
        return self.decode if self.prefill is None else self.prefill


def select(view: RequestView, pool: Pool, policy: Policy, rng: random.Random) -> Selection | None:
    """The best placement, or None while nobody can take the request.

    Equal scores are drawn with `rng`, so that several gateways do not move in step.
    """
    groups = pool.groups(view.model)
    choice = _Choice(view, pool.columns, policy, rng)
    # They are in the order of their revisions.
    if len(groups) < 2 or groups[0].revision == groups[-1].revision:
        return _best(_without(groups, view.avoid), choice, rng)
    turns = pool.split(view.model).turns(view.request_id, view.began_in)
    if view.avoid:
        fresh = [tuple(group.without(view.avoid) for group in turn) for turn in turns]
        if any(len(group.generating) for turn in fresh for group in turn):
            turns = fresh
    for turn in turns:
        found = _best(turn, choice, rng)
        if found is not None:
            return found
    return None


def _best(groups: tuple[Group, ...], choice: _Choice, rng: random.Random) -> Selection | None:
    """The best placement in any of the groups."""
    best: list[Selection] = []
    for group in groups:
        option = choice.best_of(group)
        if option is None:
            continue
        if not best or option.score < best[0].score:
            best = [option]
        elif option.score == best[0].score:
            best.append(option)
    if not best:
        return None
    return best[0] if len(best) == 1 else rng.choice(best)


def book(view: RequestView, pool: Pool, selection: Selection) -> tuple[Booking | None, Booking]:
    """Count the placement on its workers: (prefill's booking, decode's booking).

    Only the tokens that no cache covers are to be computed.
    """
    columns, decode = pool.columns, selection.decode
    cached = _cached_tokens(view, columns, selection)
    blocks = _blocks_needed(view, columns, decode)
    expected = view.num_choices * (-(-view.expected_output // int(columns.block_size[decode])))
    if selection.prefill is None:
        booking = pool.book(
            decode,
            sequences=view.num_choices,
            tokens=view.num_tokens - cached,
            blocks=blocks,
            cached_tokens=cached,
            expected_blocks=expected,
        )
        return None, booking
    prefill = pool.book(
        selection.prefill,
        sequences=view.num_choices,
        tokens=view.num_tokens - cached,
        blocks=_blocks_needed(view, columns, selection.prefill),
        cached_tokens=cached,
    )
    target = pool.book(
        decode, sequences=view.num_choices, tokens=0, blocks=blocks, expected_blocks=expected
    )
    return prefill, target


class _Choice:
    """One request's."""

    def __init__(
        self,
        view: RequestView,
        columns: Columns,
        policy: Policy,
        rng: random.Random,
    ) -> None:
        self._view = view
        self._columns = columns
        self._policy = policy
        self._rng = rng

    def best_of(self, group: Group) -> Selection | None:
        """The best among workers that could all exchange KV."""
        if len(group.prefill) and not self._view.alone:
            best, alone = self._pair(group), self._alone(group.both)
            if best is None or (alone is not None and alone.score < best.score):
                best = alone
        else:
            best = self._alone(group.generating)
        if best is None:
            return None
        best.fetch_from = self._policy.fetch_from(
            self._view, self._columns, group.everyone.index, best.computing
        )
        return best

    def _alone(self, rows: RowSet) -> Selection | None:
        """The best worker that does everything."""
        if not len(rows):
            return None
        view, columns, policy, index = self._view, self._columns, self._policy, rows.index
        scores = policy.prefill_scores(view, columns, index) + columns.barrier[index]
        scores += policy.decode_scores(view, columns, index)
        i = self._pick(scores)
        if i is None:
            return None
        stages = (Stage("alone", rows, scores),)
        return Selection(int(rows.numbers[i]), None, float(scores[i]), stages)

    def _pair(self, group: Group) -> Selection | None:
        """The best pair, or the decode worker that had better compute the prompt itself."""
        view, columns, policy = self._view, self._columns, self._policy
        if not len(group.decode):
            return None
        prefill, decode = group.prefill.index, group.decode.index
        decode_scores: Scores = np.add(
            policy.decode_scores(view, columns, decode),
            policy.transfer_scores(view, columns, decode),
            dtype=np.float64,
        )
        decode_scores[_lacks_blocks(view, columns, decode)] = np.inf
        d = self._pick(decode_scores)
        if d is None:
            return None
        any_scores = policy.prefill_scores(view, columns, prefill)
        prefill_scores = any_scores + columns.barrier[prefill]
        p = self._pick(prefill_scores)
        # The pool may be busy for so long that it is better not to wait for it.
        nearest = int(any_scores.argmin()) if p is None else p
        source, target = int(group.prefill.numbers[nearest]), int(group.decode.numbers[d])
        score = float(any_scores.item(nearest) + decode_scores.item(d))
        stages = (
            Stage("prefill", group.prefill, prefill_scores),
            Stage("decode", group.decode, decode_scores),
        )
        comparison = None
        if not policy.always_pairs:
            comparison = self._compare(group.decode, source, target)
        if comparison is not None and comparison.alone_wins:
            return Selection(comparison.alone, None, score, stages, comparison)
        return None if p is None else Selection(target, source, score, stages, comparison)

    def _compare(self, decode: RowSet, source: int, target: int) -> Comparison | None:
        """A policy that does not look at caches has chosen its decode worker for good."""
        rows = decode.index if self._policy.needs_overlap else slice(target, target + 1)
        return compare(self._view, self._columns, rows, source, target)

    def _pick(self, scores: Scores) -> int | None:
        """Position of the lowest score, None when nobody has room."""
        policy = self._policy
        if policy.num_sampled:
            scores = self._sample(scores)
        best = int(scores.argmin())
        lowest = scores.item(best)
        if lowest == math.inf:
            return None
        if policy.temperature > 0:
            return self._draw(scores, lowest)
        if len(scores) == 1:
            return best
        (ties,) = (scores <= lowest + policy.tie_share * abs(lowest)).nonzero()
        return best if len(ties) == 1 else int(ties[self._rng.randrange(len(ties))])

    def _sample(self, scores: Scores) -> Scores:
        """The scores of some of those with room."""
        able = np.flatnonzero(scores != np.inf).tolist()
        drawn = self._rng.sample(able, min(len(able), self._policy.num_sampled))
        sampled = np.full(len(scores), np.inf)
        sampled[drawn] = scores[drawn]
        return sampled

    def _draw(self, scores: Scores, lowest: float) -> int:
        """By softmax over scores relative to their spread, so that it knows no unit."""
        spread = float(np.max(scores, where=np.isfinite(scores), initial=lowest)) - lowest
        if spread <= 0:
            weights = (scores == lowest).astype(float)
        else:
            weights = np.exp((lowest - scores) / (spread * self._policy.temperature))
        return self._rng.choices(range(len(weights)), cum_weights=np.cumsum(weights).tolist())[0]


def _without(groups: tuple[Group, ...], avoid: frozenset[int]) -> tuple[Group, ...]:
    """Leave out workers that failed the request, unless no one else can generate."""
    if not avoid:
        return groups
    others = tuple(group.without(avoid) for group in groups)
    return others if any(len(group.generating) for group in others) else groups


def _lacks_blocks(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """Mask: the KV cannot land soon, and there is something to wait for.

    An offer that waits too long for its grant costs an attempt; here it costs nothing.
    """
    # Each choice's first tokens need a block of their own.
    tokens = columns.landing_tokens[rows] - view.num_choices * columns.block_size[rows]
    lacks: Array = tokens < view.num_tokens
    return lacks


def _blocks_needed(view: RequestView, columns: Columns, row: int) -> int:
    """The prompt's blocks, and one for the first tokens of each choice."""
    return -(-view.num_tokens // int(columns.block_size[row])) + view.num_choices


def _cached_tokens(view: RequestView, columns: Columns, selection: Selection) -> int:
    """Of the prompt, tokens that the computing worker has, or is to fetch."""
    overlap, best = view.overlap, 0
    if overlap is None or not overlap.best:
        return 0
    row = selection.computing
    for holder in (row, selection.fetch_from):
        if holder is not None:
            blocks = overlap.device[holder] + overlap.host[holder] + overlap.disk[holder]
            best = max(best, int(blocks))
    return min(view.num_tokens - 1, best * int(columns.block_size[row]))
