"""One choice of an answer: tokens in, text out."""

from __future__ import annotations

from typing import NamedTuple

from baton.core.request import FinishReason
from baton.gateway.answer.logprobs import TokenRecord
from baton.gateway.answer.stop import StopMatcher
from baton.gateway.text.tokenizer import Detokenizer

FINISH_NAMES = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "stop",
    FinishReason.ERROR: "stop",
}


class TextParams(NamedTuple):
    """How tokens become text: the gateway's own part of a request's parameters."""

    stops: tuple[str, ...] = ()
    """Strings that end the text."""
    include_stop: bool = False
    """Show what ended the text: the stop string, or the token."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""


PLAIN = TextParams()


class ChoiceOutput:
    """Detokenizes and applies stop strings. Ended when `finish` is set."""

    __slots__ = (
        "_detokenizer",
        "_include_stop",
        "_min_tokens",
        "_stops",
        "finish",
        "first_at",
        "index",
        "num_chars",
        "num_tokens",
        "prefix",
        "records",
        "started",
        "token_at",
    )

    def __init__(
        self, index: int, detokenizer: Detokenizer, params: TextParams, min_tokens: int
    ) -> None:
        self.index = index
        self.num_tokens = 0
        # Characters decoded so far, those held back included.
        self.num_chars = 0
        self.finish: FinishReason | None = None
        # The rest is for whoever writes the choice: whether its first chunk has gone out, the bytes
        # that its chunks begin with, tokens not written yet, and when the first and last one came.
        self.started = False
        self.prefix = b""
        self.records: list[TokenRecord] = []
        self.first_at = 0.0
        self.token_at = 0.0
        self._detokenizer = detokenizer
        self._stops = StopMatcher(params.stops, params.include_stop) if params.stops else None
        self._include_stop = params.include_stop
        self._min_tokens = min_tokens

    def push(self, token: int, finish: FinishReason | None) -> str:
        """The text that can be shown after this token. Sets `finish` when the choice ends here."""
        self.num_tokens += 1
        if finish is None:
            text = self._detokenizer.push(token)
            if self._stops is None:
                self.num_chars += len(text)
                return text
        elif finish is FinishReason.STOP and not self._include_stop:
            # The end-of-sequence or stop token is no part of the text.
            text = self._detokenizer.flush()
        else:
            text = self._detokenizer.push(token) + self._detokenizer.flush()
        self.num_chars += len(text)
        if self._stops is not None and self.num_tokens >= self._min_tokens:
            text = self._stops.push(text)
            if self._stops.matched is not None:
                finish = FinishReason.STOP
            elif finish is not None:
                text += self._stops.flush()
        self.finish = finish
        return text

    @property
    def stop(self) -> str | None:
        """The stop string that ended the choice, if one did."""
        return None if self._stops is None else self._stops.matched

    @property
    def finish_name(self) -> str:
        """OpenAI's finish_reason."""
        assert self.finish is not None
        return FINISH_NAMES[self.finish]
