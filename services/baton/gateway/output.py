"""One choice of an answer: tokens in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from baton.core.request import FinishReason
from baton.gateway.logprobs import TokenRecord
from baton.gateway.stop import StopMatcher
from baton.gateway.tokenizer import Detokenizer

FINISH_NAMES = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "stop",
    FinishReason.ERROR: "stop",
}


class ChoiceOutput:
    """Detokenizes and applies stop strings. Ended when `finish` is set."""

    __slots__ = (
        "_detokenizer",
        "_min_tokens",
        "_stops",
        "finish",
        "index",
        "num_chars",
        "num_tokens",
        "prefix",
        "records",
        "started",
        "token_at",
    )

    def __init__(
        self, index: int, detokenizer: Detokenizer, stops: Sequence[str], min_tokens: int
    ) -> None:
        self.index = index
        self.num_tokens = 0
        # Characters decoded so far, those held back included.
        self.num_chars = 0
        self.finish: FinishReason | None = None
        # The rest is for whoever writes the choice: whether its first chunk has gone out, the bytes
        # that its chunks begin with, tokens not written yet, and when the last one came.
        self.started = False
        self.prefix = b""
        self.records: list[TokenRecord] = []
        self.token_at = 0.0
        self._detokenizer = detokenizer
        self._stops = StopMatcher(stops) if stops else None
        self._min_tokens = min_tokens

    def push(self, token: int, finish: FinishReason | None) -> str:
        """The text that can be shown after this token. Sets `finish` when the choice ends here."""
        self.num_tokens += 1
        if finish is None:
            text = self._detokenizer.push(token)
            if self._stops is None:
                self.num_chars += len(text)
                return text
        elif finish is FinishReason.STOP:
            # The end-of-sequence or stop token is no part of the text.
            text = self._detokenizer.flush()
        else:
            text = self._detokenizer.push(token) + self._detokenizer.flush()
        self.num_chars += len(text)
        if self._stops is not None and self.num_tokens >= self._min_tokens:
            text = self._stops.push(text)
            if self._stops.matched:
                finish = FinishReason.STOP
            elif finish is not None:
                text += self._stops.flush()
        self.finish = finish
        return text

    @property
    def finish_name(self) -> str:
        """OpenAI's finish_reason."""
        assert self.finish is not None
        return FINISH_NAMES[self.finish]
