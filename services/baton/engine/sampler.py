"""Logits to tokens, for a whole batch at once.

Randomness is counter-based: the uniform number behind a token is a function of (seed, choice,
position in the output), so a request gets the same tokens on any worker, in any batch, and again
when it is replayed. Every other step works row by row, so a row's result does not depend on its
neighbours.

Order: logit_bias, penalties, min_tokens mask, temperature, top_k, top_p, min_p, then the inverse
of the cumulative distribution in the order of token ids. Tokens that tie with the last one kept by
top_k or top_p are kept too, so that ties need no tie-break. Log-probabilities are those of the raw
logits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch

from baton.core.request import TokenLogprobs
from baton.engine.batch import SampledToken, SampleSpec

# Below this, dividing by the temperature would only overflow; the likeliest token is taken.
GREEDY_BELOW = 1e-5
_UNIFORM_BITS = 53


def uniform(seed: int, choice: int, position: int) -> float:
    """The number in [0, 1) that draws the token at `position` of a choice's output.

    The top 53 bits of blake2b over (seed mod 2^64, choice, position) as little-endian 64-bit words,
    personalised "baton.sample"; any worker of any build must draw the same.
    """
    counter = struct.pack("<QQQ", seed & (2**64 - 1), choice, position)
    digest = blake2b(counter, digest_size=8, person=b"baton.sample").digest()
    return (int.from_bytes(digest, "little") >> (64 - _UNIFORM_BITS)) * 2.0**-_UNIFORM_BITS


class Sampler:
    """Stateless between steps: everything a token depends on is in its logits and its spec."""

    def __init__(self, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids

    def sample(self, logits: torch.Tensor, specs: Sequence[SampleSpec]) -> list[SampledToken]:
        """One token for each row of `logits` [N, vocab] by the spec of that row."""
        raw = logits if logits.dtype == torch.float64 else logits.float()
        scores = self._adjusted(raw, specs)
        tokens = scores.argmax(dim=-1)
        random = [i for i, s in enumerate(specs) if s.params.temperature >= GREEDY_BELOW]
        if random:
            chosen = scores if len(random) == len(specs) else scores[random]
            drawn = _draw(chosen, [specs[i] for i in random])
            tokens[torch.tensor(random, device=tokens.device)] = drawn
        logprobs = _logprobs(raw, tokens, specs)
        return [SampledToken(t, p) for t, p in zip(tokens.tolist(), logprobs, strict=True)]

    def _adjusted(self, raw: torch.Tensor, specs: Sequence[SampleSpec]) -> torch.Tensor:
        """Biases, penalties and the min_tokens mask; `raw` itself when no row has any."""
        added = _Entries(self._vocab_size)
        banned = _Entries(self._vocab_size)
        for row, spec in enumerate(specs):
            params = spec.params
            if params.logit_bias:
                biases = np.array(list(params.logit_bias.values()), dtype=np.float64)
                added.add(row, np.array(list(params.logit_bias), dtype=np.int64), biases)
            if spec.output and (params.presence_penalty or params.frequency_penalty):
                tokens, counts = np.unique(np.asarray(spec.output), return_counts=True)
                penalties = params.presence_penalty + params.frequency_penalty * counts
                added.add(row, tokens, -penalties)
            if spec.position < params.min_tokens:
                ends = set(params.stop_token_ids)
                ends |= set() if params.ignore_eos else self._eos_token_ids
                tokens = np.array(sorted(ends), dtype=np.int64)
                banned.add(row, tokens, np.full(len(tokens), -np.inf))
        if not added.rows and not banned.rows:
            return raw
        scores = raw.clone()
        if added.rows:
            index, values = added.tensors(scores)
            scores.index_put_(index, values, accumulate=True)
        if banned.rows:
            index, values = banned.tensors(scores)
            scores.index_put_(index, values)
        return scores


class _Entries:
    """Sparse (row, token, value) entries; tokens outside the vocabulary have no logit to change."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.rows: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, row: int, tokens: np.ndarray, values: np.ndarray) -> None:
        known = (tokens >= 0) & (tokens < self._vocab_size)
        self._tokens.append(tokens[known])
        self._values.append(values[known])
        self.rows.append(np.full(len(self._tokens[-1]), row))

    def tensors(self, like: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        rows, tokens, values = (
            torch.from_numpy(np.concatenate(parts)).to(like.device)
            for parts in (self.rows, self._tokens, self._values)
        )
        return (rows, tokens), values.to(like.dtype)


def _draw(scores: torch.Tensor, specs: Sequence[SampleSpec]) -> torch.Tensor:
    """A token [R] for each row of `scores` [R, vocab]."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=scores.device).unsqueeze(1)

    params = [s.params for s in specs]
    scaled = scores / column([p.temperature for p in params]).to(scores.dtype)
    _keep_top_k(scaled, [p.top_k for p in params])
    probs = scaled.softmax(dim=-1)
    _keep_top_p(probs, [p.top_p for p in params])
    if any(p.min_p for p in params):
        least = probs.amax(dim=-1, keepdim=True) * column([p.min_p for p in params]).to(probs.dtype)
        probs.masked_fill_(probs < least, 0.0)
    # The sum over a large vocabulary needs float64.
    cdf = probs.cumsum(dim=-1, dtype=torch.float64)
    total = cdf[:, -1:]
    numbers = column([uniform(s.seed, s.choice, s.position) for s in specs])
    # Rounding must not lift the target to the total, which no token's interval reaches.
    target = torch.minimum(numbers * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True).squeeze(1)


def _keep_top_k(scores: torch.Tensor, top_k: Sequence[int]) -> None:
    """Set all but each row's `top_k` highest scores (0: all are kept) to -inf, in place."""
    vocab_size = scores.shape[-1]
    rows = [i for i, k in enumerate(top_k) if 0 < k < vocab_size]
    if not rows:
        return
    index = torch.tensor(rows, device=scores.device)
    highest = scores[index].topk(max(top_k[i] for i in rows), dim=-1).values
    last = torch.tensor([[top_k[i] - 1] for i in rows], device=scores.device)
    least = torch.full((len(top_k), 1), -torch.inf, dtype=scores.dtype, device=scores.device)
    least[index] = highest.gather(1, last)
    scores.masked_fill_(scores < least, -torch.inf)


def _keep_top_p(probs: torch.Tensor, top_p: Sequence[float]) -> None:
    """Zero all but the fewest likeliest tokens that together reach `top_p`, in place."""
    rows = [i for i, p in enumerate(top_p) if p < 1.0]
    if not rows:
        return
    index = torch.tensor(rows, device=probs.device)
    ordered = _descending(probs[index])
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    limits = torch.tensor([[top_p[i]] for i in rows], dtype=torch.float64, device=probs.device)
    num_kept = (before < limits).sum(dim=-1, keepdim=True)
    least = torch.zeros((len(top_p), 1), dtype=probs.dtype, device=probs.device)
    least[index] = ordered.gather(1, num_kept - 1)
    probs.masked_fill_(probs < least, 0.0)


def _descending(values: torch.Tensor) -> torch.Tensor:
    """Each row sorted. On CPUs numpy's vectorised sort takes a fifth of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values


def _logprobs(
    raw: torch.Tensor, tokens: torch.Tensor, specs: Sequence[SampleSpec]
) -> list[TokenLogprobs | None]:
    """For the rows that ask: the token's log-probability and the likeliest tokens, best first."""
    found: list[TokenLogprobs | None] = [None] * len(specs)
    by_count: dict[int, list[int]] = {}
    for row, spec in enumerate(specs):
        if spec.params.logprobs:
            by_count.setdefault(spec.params.top_logprobs, []).append(row)
    # One call for each count: which of two equal logits topk reports may depend on the count.
    for count, rows in by_count.items():
        index = torch.tensor(rows, device=raw.device)
        logprobs = raw[index].log_softmax(dim=-1)
        own = logprobs.gather(1, tokens[index].unsqueeze(1)).squeeze(1).tolist()
        values, ids = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
        for i, row in enumerate(rows):
            best = sorted(zip(ids[i].tolist(), values[i].tolist(), strict=True), key=_best_first)
            found[row] = TokenLogprobs(
                own[i], tuple(token for token, _ in best), tuple(value for _, value in best)
            )
    return found


def _best_first(entry: tuple[int, float]) -> tuple[float, int]:
    token, logprob = entry
    return -logprob, token
