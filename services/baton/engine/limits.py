"""What this engine can never run, found out before it takes a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from baton.core.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from baton.core.request import Request
from baton.engine.block_manager import BlockManager
from baton.engine.sequence import Submission


class Limits:
    """Checks requests against the model and the pool."""

    def __init__(
        self, vocab_size: int, max_model_len: int, max_sequences: int, blocks: BlockManager
    ) -> None:
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._max_sequences = max_sequences
        self._blocks = blocks

    def check(self, request: Request) -> None:
        """Raise InvalidRequestError, or ContextLengthError, saying which limit is exceeded."""
        request.sampling.check()
        if not request.prompt:
            raise InvalidRequestError("the prompt is empty", param="prompt")
        self._check_ids(request.prompt, "prompt")
        self._check_ids(request.sampling.stop_token_ids, "stop_token_ids")
        self._check_ids(tuple(request.sampling.logit_bias), "logit_bias")
        num_choices = request.num_choices
        if not 1 <= num_choices <= self._max_sequences:
            raise InvalidRequestError(
                f"n must be between 1 and {self._max_sequences} (engine.max_sequences), "
                f"got {num_choices}",
                param="n",
            )
        for choice, output in request.outputs.items():
            self._check_ids(output, f"outputs[{choice}]")
            if len(output) >= request.sampling.max_tokens:
                raise InvalidRequestError(
                    f"choice {choice} has all of its {request.sampling.max_tokens} tokens already",
                    param="max_tokens",
                )
        self._check_length(
            len(request.prompt), max(len(output) for output in request.outputs.values())
        )

    def check_handoff(self, request: Request) -> None:
        """Raise UnsupportedError when the request's KV is not one run of tokens."""
        if request.num_choices > 1 and any(request.outputs.values()):
            raise UnsupportedError(
                "several choices that have output already cannot be handed over together; "
                "compute them where they are to be generated"
            )

    def check_growth(self, submission: Submission, growth_tokens: int) -> None:
        """Raise InvalidRequestError when a source has no use for room for so many more tokens."""
        request = submission.request
        (output,) = request.outputs.values() if request.num_choices == 1 else ((),)
        if growth_tokens and request.num_choices > 1:
            raise UnsupportedError("several choices cannot be moved together yet")
        if growth_tokens > submission.max_output - len(output):
            raise InvalidRequestError(
                f"the offer has room for {growth_tokens} more tokens, which the request cannot have"
            )
        num_tokens = len(request.prompt) + len(output) + growth_tokens
        if not self._blocks.ever_fits(num_tokens):
            raise InvalidRequestError(
                f"{num_tokens} tokens need more KV blocks than the {self._blocks.pools[0].size} "
                "of this worker"
            )

    def plausible(self, submission: Submission, outputs: Mapping[int, tuple[int, ...]]) -> bool:
        """Whether a source can have generated `outputs[c]` for choices that go on."""
        so_far = submission.request.outputs
        return all(
            choice in so_far
            and 0 < len(tokens) < submission.max_output - len(so_far[choice])
            and all(0 <= token < self._vocab_size for token in tokens)
            for choice, tokens in outputs.items()
        )

    def _check_length(self, num_prompt: int, num_output: int) -> None:
        num_tokens = num_prompt + num_output
        what = f"the prompt has {num_prompt} tokens"
        if num_output:
            what += f" and the output so far {num_output}"
        if num_tokens >= self._max_model_len:
            raise ContextLengthError(
                f"{what}, which leaves no room for another in the context of "
                f"{self._max_model_len} tokens; shorten the prompt",
                param="prompt",
            )
        if not self._blocks.ever_fits(num_tokens):
            pool = self._blocks.pools[0]
            raise InvalidRequestError(
                f"{what}, more than the {pool.size} KV blocks of {pool.spec.block_size} tokens of "
                "this worker hold; shorten the prompt, or give workers more "
                "(engine.kv_blocks, engine.kv_memory_bytes)",
                param="prompt",
            )

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        if not ids:
            return
        try:
            array = np.asarray(ids, dtype=np.int64)
        except (OverflowError, ValueError, TypeError):
            raise InvalidRequestError(f"{param} holds invalid token ids", param=param) from None
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            raise InvalidRequestError(
                f"{param} holds token id {wrong}; ids are between 0 and {self._vocab_size - 1}",
                param=param,
            )
