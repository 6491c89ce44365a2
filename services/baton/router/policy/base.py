"""What a routing policy is: a pure function of (request, columns) to a score for each worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from baton.router.pool import Columns, Rows

Scores = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a policy may know of a request.

    `num_tokens` are to be computed or fetched from a cache (prompt and replayed output). `alone`
    asks for one worker that computes everything itself. Rows in `avoid` have just failed it.
    """

    model: str
    num_tokens: int
    num_choices: int = 1
    alone: bool = False
    avoid: frozenset[int] = frozenset()


class Policy(Protocol):
    """Scores workers for the two stages of a request. The lowest score wins, ties are drawn.

    The scores of both stages are added for a pair, and for a worker that does both.
    """

    @property
    def name(self) -> str: ...

    def prefill_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        """One score per row for computing the prompt."""

    def decode_scores(self, view: RequestView, columns: Columns, rows: Rows) -> Scores:
        """One score per row for generating the answer."""
