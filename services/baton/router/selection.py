"""From scores to workers: who may take a request now, and which of them does.

A worker of role `any` serves a request alone. A decode worker is paired with a prefill worker of
the same digest; where none of those is alive, or the request asks for it, it computes the prompt
itself, so losing the prefill pool slows answers but does not stop them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from baton.router.policy.base import Policy, RequestView, Scores
from baton.router.pool import Array, Booking, Columns, Pool, Role, Rows

# As plain numbers: with a member of an enum, numpy takes six times as long to compare.
_PREFILL, _DECODE, _ANY = map(int, (Role.PREFILL, Role.DECODE, Role.ANY))


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of the chosen workers. Without `prefill`, the decode worker computes the prompt."""

    decode: int
    prefill: int | None
    score: float


def select(view: RequestView, pool: Pool, policy: Policy, rng: random.Random) -> Selection | None:
    """The best placement, or None while nobody can take the request.

    Equal scores are drawn with `rng`, so that several gateways do not move in step.
    """
    columns = pool.columns
    rows = _without(columns, pool.candidates(view.model), view.avoid)
    best: list[Selection] = []
    # There are few; np.unique, which sorts them, takes 9 us.
    for digest in set(columns.digest[rows].tolist()):
        option = _best_of_digest(view, columns, policy, rng, rows[columns.digest[rows] == digest])
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
    """Count the placement on its workers: (prefill's booking, decode's booking)."""
    blocks = _blocks_needed(view, pool.columns, selection.decode)
    if selection.prefill is None:
        decode = pool.book(
            selection.decode, sequences=view.num_choices, tokens=view.num_tokens, blocks=blocks
        )
        return None, decode
    prefill = pool.book(
        selection.prefill,
        sequences=view.num_choices,
        tokens=view.num_tokens,
        blocks=_blocks_needed(view, pool.columns, selection.prefill),
    )
    decode = pool.book(selection.decode, sequences=view.num_choices, tokens=0, blocks=blocks)
    return prefill, decode


def _best_of_digest(
    view: RequestView, columns: Columns, policy: Policy, rng: random.Random, rows: Rows
) -> Selection | None:
    """The best among workers that could all exchange KV."""
    role = columns.role[rows]
    prefill = rows[role == _PREFILL]
    paired = len(prefill) > 0 and not view.alone
    alone = rows[role == _ANY] if paired else rows[role != _PREFILL]
    alone = alone[_has_queue_room(columns, alone)]
    options: list[Selection] = []
    if len(alone):
        scores = policy.prefill_scores(view, columns, alone) + policy.decode_scores(
            view, columns, alone
        )
        i = _lowest(scores, rng)
        options.append(Selection(int(alone[i]), None, float(scores[i])))
    if paired:
        prefill = prefill[_has_queue_room(columns, prefill)]
        decode = rows[role == _DECODE]
        decode = decode[_has_block_room(view, columns, decode)]
        if len(prefill) and len(decode):
            prefill_scores = policy.prefill_scores(view, columns, prefill)
            decode_scores = policy.decode_scores(view, columns, decode)
            p, d = _lowest(prefill_scores, rng), _lowest(decode_scores, rng)
            score = float(prefill_scores[p]) + float(decode_scores[d])
            options.append(Selection(int(decode[d]), int(prefill[p]), score))
    return min(options, key=lambda option: option.score, default=None)


def _without(columns: Columns, rows: Rows, avoid: frozenset[int]) -> Rows:
    """Leave out workers that failed the request, unless no one else can generate."""
    if not avoid:
        return rows
    others = rows[~np.isin(rows, list(avoid))]
    return others if np.any(columns.role[others] != _PREFILL) else rows


def _has_queue_room(columns: Columns, rows: Rows) -> Array:
    """Mask: room for one more prompt in the worker's waiting queue."""
    room: Array = columns.queue_room[rows] > columns.unreported[rows]
    return room


def _has_block_room(view: RequestView, columns: Columns, rows: Rows) -> Array:
    """Mask: the KV can land soon, or nothing else is there to wait for.

    An offer that waits too long for its grant costs an attempt; here it costs nothing.
    """
    blocks = -(-view.num_tokens // columns.block_size[rows]) + view.num_choices
    fits = columns.free_blocks[rows] - columns.booked_blocks[rows] >= blocks
    room: Array = (columns.queue_room[rows] > 0) & (fits | (columns.inflight[rows] == 0))
    return room


def _blocks_needed(view: RequestView, columns: Columns, row: int) -> int:
    """The prompt's blocks, and one for the first tokens of each choice."""
    return -(-view.num_tokens // int(columns.block_size[row])) + view.num_choices


def _lowest(scores: Scores, rng: random.Random) -> int:
    ties = np.flatnonzero(scores == scores.min())
    return int(ties[0]) if len(ties) == 1 else int(ties[rng.randrange(len(ties))])
