"""Streams of OpenAI's chunks: what chats and completions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from baton.core.request import Request
from baton.gateway.answer.base import Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.output import TextParams
from baton.gateway.answer.stream import EventStream
from baton.gateway.api.prepare import ServedModel

UsageShown = Literal["never", "last", "each"]
"""In no chunk, in one of its own at the end, or in that and every other."""

_DONE = b"data: [DONE]\n\n"


class ChunkStream(EventStream):
    """A chunk is `begin`, the choices, and `end`."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        kind: str,
        usage: UsageShown,
    ) -> None:
        details = head.logprobs or head.token_ids or usage == "each"
        super().__init__(model, requests, text, metrics, details=details)
        self.head = head
        document = {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": model.name,
            "system_fingerprint": None,
        }
        self.begin = b"data: " + orjson.dumps(document)[:-1]
        self.end = b"]}\n\n" if usage == "never" else b'],"usage":null}\n\n'
        self._usage_shown = usage

    def on_complete(self) -> None:
        if self._usage_shown != "never":
            usage = orjson.dumps(self.usage())
            self.write(b'%s,"choices":[],"usage":%s}\n\n' % (self.begin, usage))
        self.write(_DONE)

    def write_choice(self, choice: Any, more: bytes = b"") -> None:
        """Queue a chunk with one choice, and what else goes before it."""
        end = self.end
        if self._usage_shown == "each":
            end = b'],"usage":%s}\n\n' % orjson.dumps(self.usage())
        self.write(b'%s%s,"choices":[%s%s' % (self.begin, more, orjson.dumps(choice), end))
