"""Answers of /v1/completions: one JSON document, or a stream of chunks."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from baton.core.request import Request
from baton.gateway.answer import logprobs
from baton.gateway.answer.base import Head
from baton.gateway.answer.call_metrics import CallMetrics
from baton.gateway.answer.collect import Collected
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.api.chunks import ChunkStream, UsageShown
from baton.gateway.api.prepare import ServedModel
from baton.gateway.api.schemas import Completion, CompletionChoice, CompletionChunkChoice

# The text of each prompt, shown before its answers; empty without `echo`.
Echoes = Sequence[str]


class CompletionDocument(Collected):
    """The answer in one piece."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        echoes: Echoes,
    ) -> None:
        super().__init__(model, requests, text, metrics, head=head)
        self._echoes = echoes

    def document(self) -> Completion:
        head = self.head
        choices: list[CompletionChoice] = []
        for sink, echo in zip(self.sinks, self._echoes, strict=True):
            for output in sink.outputs:
                choice = self._choice(output, echo)
                if head.token_ids:
                    choice["prompt_token_ids"] = list(sink.request.prompt)
                    choice["token_ids"] = [r.token for r in output.records]
                choices.append(choice)
        return {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": self.model.name,
            "choices": choices,
            "usage": self.usage(),
            "system_fingerprint": None,
        }

    def _choice(self, output: ChoiceOutput, echo: str) -> CompletionChoice:
        return {
            "index": output.index,
            "text": echo + self.text(output),
            "logprobs": logprobs.completion(output.records, self.head.token_bytes)
            if self.head.logprobs
            else None,
            "finish_reason": output.finish_name,
        }


class CompletionStream(ChunkStream):
    """The answer as chunks."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        echoes: Echoes,
        usage: UsageShown,
    ) -> None:
        super().__init__(
            model,
            requests,
            text,
            metrics,
            head=head,
            kind="text_completion",
            usage=usage,
        )
        self._echoes = echoes
        self.tail = b',"logprobs":null,"finish_reason":null}' + self.end

    def first_chunks(self, output: ChoiceOutput) -> None:
        output.prefix = self.begin + b',"choices":[{"index":%d,"text":' % output.index
        of_prompt = output.index // len(self.sinks[0].outputs)
        echo = self._echoes[of_prompt]
        if not echo and not self.head.token_ids:
            return
        choice = self._choice(output, echo, None)
        if self.head.token_ids:
            choice["prompt_token_ids"] = list(self.sinks[of_prompt].request.prompt)
            choice["token_ids"] = []
        self.write_choice(choice)

    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        if self.details:
            self.detailed_chunk(output, text, output.finish_name)
            return
        self.write(
            b'%s%s,"logprobs":null,"finish_reason":"%s"}%s'
            % (output.prefix, orjson.dumps(text), output.finish_name.encode(), self.end)
        )

    def detailed_chunk(self, output: ChoiceOutput, text: str, finish: str | None) -> None:
        records, output.records = output.records, []
        choice = self._choice(output, text, finish)
        if self.head.logprobs and records:
            choice["logprobs"] = logprobs.completion(records, self.head.token_bytes)
        if self.head.token_ids:
            choice["token_ids"] = [record.token for record in records]
        self.write_choice(choice)

    def _choice(self, output: ChoiceOutput, text: str, finish: str | None) -> CompletionChunkChoice:
        return {"index": output.index, "text": text, "logprobs": None, "finish_reason": finish}
