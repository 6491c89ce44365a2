"""What became of the requests of a run, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.sim.workload import BLOCK_SIZE, TraceRequest

# A good request has its first token within, and takes for each later one at most, so long.
GOOD_TTFT_S = 2.0
GOOD_TPOT_S = 0.025


@dataclass(slots=True)
class Served:
    """One request's fate. Instants are virtual; NaN for what has not happened."""

    request: TraceRequest
    # Rows of the workers; the prompt's is the answer's when one does both.
    prefill: int = -1
    decode: int = -1
    # Prompt tokens that were in the worker's cache when its compute began, and how many of them
    # another worker had sent for this request.
    cached_tokens: int = 0
    fetched_tokens: int = 0
    dispatched_at: float = math.nan
    scheduled_at: float = math.nan
    first_token_at: float = math.nan
    last_token_at: float = math.nan

    @property
    def ttft_s(self) -> float:
        """Time to first token, from arrival at the gateway."""
        return self.first_token_at - self.request.at

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; 0 when there is only one."""
        later = self.request.num_output - 1
        return (self.last_token_at - self.first_token_at) / later if later else 0.0

    @property
    def is_good(self) -> bool:
        return self.ttft_s <= GOOD_TTFT_S and self.tpot_s <= GOOD_TPOT_S


@dataclass(frozen=True, slots=True)
class Report:
    """Times in seconds. `block_reuse` is blocks not computed over all blocks of all prompts."""

    num_requests: int
    num_good: int
    block_reuse: float
    token_reuse: float
    fetched_share: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    # Busiest worker over the mean, by requests that it computed the prompts of.
    imbalance: float
    requests_per_worker: dict[int, int] = field(default_factory=dict)


def report(served: Sequence[Served]) -> Report:
    """Numbers of a run in which every request has been served. Raises ValueError for another."""
    if not served or any(math.isnan(one.last_token_at) for one in served):
        raise ValueError("not all requests have been served")
    ttfts = sorted(one.ttft_s for one in served)
    tpots = sorted(one.tpot_s for one in served)
    num_tokens = sum(one.request.num_tokens for one in served)
    cached = sum(one.cached_tokens for one in served)
    num_blocks = sum(len(one.request.ids) for one in served)
    per_worker = Counter(one.prefill for one in served)
    return Report(
        num_requests=len(served),
        num_good=sum(one.is_good for one in served),
        block_reuse=cached / BLOCK_SIZE / num_blocks,
        token_reuse=cached / num_tokens,
        fetched_share=sum(one.fetched_tokens for one in served) / BLOCK_SIZE / num_blocks,
        ttft_mean_s=sum(ttfts) / len(ttfts),
        ttft_p50_s=percentile(ttfts, 50),
        ttft_p99_s=percentile(ttfts, 99),
        tpot_p50_s=percentile(tpots, 50),
        tpot_p99_s=percentile(tpots, 99),
        imbalance=max(per_worker.values()) * len(per_worker) / len(served),
        requests_per_worker=dict(sorted(per_worker.items())),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed (nearest rank)."""
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(0, rank - 1)]
