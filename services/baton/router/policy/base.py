"""What a routing policy is: a pure function of (request, columns) to a score for each worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

from baton.router.columns import Columns, Rows
from baton.router.prefix_index import Overlap

Scores = npt.NDArray[Any]


class RequestView(NamedTuple):
    """What a policy may know of a request.

    `num_tokens` are to be computed or fetched from a cache (prompt and replayed output). `alone`
    asks for one worker that computes everything itself. Rows in `avoid` have just failed it.
    `overlap` counts blocks of them that caches hold, for every row of the columns and at least one
    token less than all; None when nobody has looked. `affinity` is the same for requests that
    belong together, or empty. `expected_output` is the predicted number of output tokens of each
    choice, 0 when unknown. `request_id` draws its revision, where there are several; `began_in` is
    that (with the digest, both as the pool's numbers) of the worker that gave it its first tokens.
    """

    model: str
    num_tokens: int
    num_choices: int = 1
    alone: bool = False
    avoid: frozenset[int] = frozenset()
    overlap: Overlap | None = None
    affinity: str = ""
    expected_output: int = 0
    request_id: str = ""
    began_in: tuple[int, int] | None = None


@runtime_checkable
class Policy(Protocol):
    """Scores workers for the stages of a request. The lowest score wins, ties are drawn.

    The scores of prefill and decode are added for a worker that does both; a pair has that of the
    transfer on top. Subclass it, so that what is not said is as here. `rows` indexes columns: an
    array, or a slice when that costs no copy; each result has one element per row.
    """

    name: str
    # RequestView.overlap is looked up for it.
    needs_overlap: bool = False
    # Score only so many workers of each stage, drawn at random; 0 for all.
    num_sampled: int = 0
    # Scores within this share of the lowest are equal: predictions are no better than measurements.
    tie_share: float = 0.0
    # Above 0, workers are drawn with weights exp(-score / (temperature * spread of the scores)).
    temperature: float = 0.0
    # No decode worker computes a prompt while there are prefill workers.
    always_pairs: bool = False

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        """For computing the prompt."""
        ...

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        """For generating the answer."""
        ...

    def transfer_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores | float:
        """For bringing the KV to a decode worker that has not computed it."""
        del view, columns, rows
        return 0.0

    def fetch_from(self, view: RequestView, columns: Columns, rows: Rows, row: int) -> int | None:
        """Among `rows`, the worker whose cached blocks `row` is to fetch before it computes."""
        del view, columns, rows, row
        return None

    def terms(self, view: RequestView, columns: Columns, rows: Rows) -> Mapping[str, Scores]:
        """What the scores are made of, for people. Names begin with the stage and an underscore
        (`prefill_queue`, `decode_batch`, `transfer_blocks`); a stage's terms add up to its score.
        """
        return {
            "prefill_score": self.prefill_scores(view, columns, rows),
            "decode_score": self.decode_scores(view, columns, rows),
        }
