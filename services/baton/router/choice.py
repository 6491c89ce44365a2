"""Why a request went where it did: the record of one decision.

Made for every request, so it only copies the rows of at most `MAX_CANDIDATES` workers; what the
policy made of them is computed again when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from baton.router import forecast, peer_fetch
from baton.router.columns import Array, Columns, RowNumbers
from baton.router.policy.base import Policy, RequestView
from baton.router.pool import Pool
from baton.router.prefix_index import no_overlap
from baton.router.selection import Selection, Stage

MAX_CANDIDATES = 16


class _Look(NamedTuple):
    """See `Choice._look`."""

    view: RequestView
    columns: Columns


class _Candidates:
    """The best workers of one stage as they were, in any order; the chosen one is among them."""

    __slots__ = ("chosen", "num_compared", "scores", "snapshot_rows", "stage", "workers")

    def __init__(
        self,
        pool: Pool,
        stage: Stage,
        rows: RowNumbers,
        scores: Array,
        chosen: int | None,
        first: int,
    ) -> None:
        """`first`: where the choice's snapshot has the first of `rows`."""
        numbers: list[int] = rows.tolist()
        self.stage = stage.name
        self.num_compared = len(stage.rows)
        self.scores = scores
        self.workers = list(map(pool.worker_id, numbers))
        # Position of the chosen one; a pair that was not formed has no prefill worker.
        self.chosen = numbers.index(chosen) if chosen is not None else None
        self.snapshot_rows = slice(first, first + len(numbers))

    def describe(self, policy: Policy, look: _Look) -> Iterator[dict[str, Any]]:
        """Each as a document, the best first."""
        view, columns = look
        rows = slice(0, len(self.workers))
        stages = {
            "alone": ("prefill_", "decode_"),
            "prefill": ("prefill_",),
            "decode": ("decode_", "transfer_"),
        }
        terms = {
            name: term.tolist()
            for name, term in policy.terms(view, columns, rows).items()
            if name.startswith(stages[self.stage])
        }
        cached = forecast.cached_blocks(view, rows)
        for i in self.scores.argsort(kind="stable").tolist():
            blocks = 0 if cached is None else int(cached[i])
            yield {
                "worker": self.workers[i],
                "stage": self.stage,
                "chosen": i == self.chosen,
                "score": _number(self.scores[i]),
                "cached_tokens": blocks * int(columns.block_size[i]),
                "terms": {name: _number(term[i]) for name, term in terms.items()},
            }


class Choice:
    """See the module. Workers by id, since rows are reused."""

    __slots__ = (
        "_alternatives",
        "_candidates",
        "_overlap",
        "_policy",
        "_snapshot",
        "_view",
        "decode",
        "fetch_from",
        "prefill",
    )

    def __init__(self, view: RequestView, pool: Pool, policy: Policy, selection: Selection) -> None:
        """Call it before the selection is booked."""
        self.decode = pool.worker_id(selection.decode)
        self.prefill = _id(pool, selection.prefill)
        self.fetch_from = _id(pool, selection.fetch_from)
        self._policy = policy
        # Without the arrays for all rows.
        self._view = view._replace(overlap=None)
        either = selection.comparison
        # A decode worker and a prefill worker that could compute the prompt, and their seconds.
        self._alternatives = None
        if either is not None:
            self._alternatives = (
                (pool.worker_id(either.alone), either.alone_s),
                (pool.worker_id(either.prefill), either.pair_s),
            )
        most = MAX_CANDIDATES // len(selection.stages)
        self._candidates: dict[str, _Candidates] = {}
        kept: list[RowNumbers] = []
        num_kept = 0
        for stage in selection.stages:
            chosen = selection.prefill if stage.name == "prefill" else selection.decode
            rows, scores = _best(stage, most, chosen)
            self._candidates[stage.name] = _Candidates(pool, stage, rows, scores, chosen, num_kept)
            kept.append(rows)
            num_kept += len(rows)
        # Of all stages one after the other.
        rows = kept[0] if len(kept) == 1 else np.concatenate(kept)
        self._snapshot = pool.columns.snapshot(rows)
        self._overlap = view.overlap
        if view.overlap is not None:
            is_held = view.overlap.best > 0
            self._overlap = view.overlap.take(rows) if is_held else no_overlap(len(rows))

    def _look(self, candidates: _Candidates) -> _Look:
        """What the policy saw: the request, and columns that have a row for each of them."""
        overlap = None if self._overlap is None else self._overlap.take(candidates.snapshot_rows)
        view = self._view._replace(overlap=overlap)
        return _Look(view, Columns.of(self._snapshot, candidates.snapshot_rows))

    def to_json(self) -> dict[str, Any]:
        """Times in seconds, null while nothing has been measured; a score is null without room."""
        alone, pair = self._alternatives or (None, None)
        candidates = self._candidates.values()
        looks = {one.stage: self._look(one) for one in candidates}
        return {
            "policy": self._policy.name,
            "reason": self._reason(),
            "prefill": self.prefill,
            "decode": self.decode,
            "fetch_from": self.fetch_from,
            "predicted": self._predicted(looks),
            "alone_s": None if alone is None else _number(alone[1]),
            "pair_s": None if pair is None else _number(pair[1]),
            "num_candidates": {one.stage: one.num_compared for one in candidates},
            "candidates": [
                worker
                for one in candidates
                for worker in one.describe(self._policy, looks[one.stage])
            ],
        }

    def _predicted(self, looks: Mapping[str, _Look]) -> dict[str, Any]:
        """For the chosen workers. What is fetched counts as cached."""
        target = self._candidates.get("decode") or self._candidates["alone"]
        source = target if self.prefill is None else self._candidates["prefill"]
        assert source.chosen is not None and target.chosen is not None, "both were chosen"
        view, columns = looks[source.stage]
        row = slice(source.chosen, source.chosen + 1)
        cached = forecast.cached_blocks(view, row)
        blocks, saved_s = 0 if cached is None else int(cached[0]), 0.0
        if self.fetch_from is not None and view.overlap is not None:
            blocks = view.overlap.best
            saved_s = peer_fetch.shortened_s(view, columns, source.chosen)
        predicted: dict[str, Any] = {
            "cached_tokens": blocks * int(columns.block_size[source.chosen]),
            "ttft_s": None,
            "tpot_s": None,
            "transfer_s": None,
        }
        is_measured = bool(columns.prefill_is_measured[source.chosen])
        if is_measured:
            predicted["ttft_s"] = _number(forecast.ttft_s(view, columns, row)[0] - saved_s)
        view, columns = looks[target.stage]
        row = slice(target.chosen, target.chosen + 1)
        if columns.step_is_measured[target.chosen]:
            predicted["tpot_s"] = _number(forecast.tpot_s(view, columns, row)[0])
        if is_measured and self.prefill is not None:
            predicted["transfer_s"] = _number(forecast.transfer_s(view, columns, row)[0])
        return predicted

    def _reason(self) -> str:
        if self._alternatives is not None:
            (alone, alone_s), (source, pair_s) = self._alternatives
            if self.prefill is None:
                return (
                    f"{alone} computes the prompt itself: that costs {alone_s:.4g} s, "
                    f"through {source} it would take {pair_s:.4g} s"
                )
            return (
                f"a prefill worker computes the prompt: through {source} it takes {pair_s:.4g} s, "
                f"on {alone} it would cost {alone_s:.4g} s"
            )
        if self.prefill is not None:
            return "the best prefill worker and the best decode worker"
        if self._view.alone:
            return "what was begun elsewhere is computed again by the worker that goes on with it"
        return "the best worker"


def _best(stage: Stage, most: int, chosen: int | None) -> tuple[RowNumbers, Array]:
    """The rows with the lowest scores, and those."""
    scores, rows = stage.scores, stage.rows.numbers
    if len(scores) <= most:
        return rows, scores
    best = np.argpartition(scores, most)[:most]
    (of_chosen,) = (rows == chosen).nonzero()
    if len(of_chosen) and of_chosen[0] not in best:
        best[-1] = of_chosen[0]
    return rows[best], scores[best]


def _id(pool: Pool, row: int | None) -> str | None:
    return None if row is None else pool.worker_id(row)


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
