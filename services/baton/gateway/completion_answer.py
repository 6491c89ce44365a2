"""Answers of /v1/completions: one JSON document, or a stream of chunks."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from baton.core.request import Request
from baton.gateway import logprobs
from baton.gateway.answer import Head
from baton.gateway.call_metrics import CallMetrics
from baton.gateway.collect import Collected
from baton.gateway.output import ChoiceOutput
from baton.gateway.prepare import ServedModel
from baton.gateway.schemas import Completion, CompletionChoice, CompletionChunkChoice
from baton.gateway.stream import EventStream

# The text of each prompt, shown before its answers; empty without `echo`.
Echoes = Sequence[str]


class CompletionDocument(Collected):
    """The answer in one piece."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        head: Head,
        echoes: Echoes,
    ) -> None:
        super().__init__(model, requests, stops, metrics, head=head)
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
        token_bytes = self.model.tokenizer.token_bytes
        return {
            "index": output.index,
            "text": echo + self.text(output),
            "logprobs": logprobs.completion(output.records, token_bytes)
            if self.head.logprobs
            else None,
            "finish_reason": output.finish_name,
        }


class CompletionStream(EventStream):
    """The answer as chunks."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        head: Head,
        echoes: Echoes,
        include_usage: bool,
    ) -> None:
        super().__init__(
            model,
            requests,
            stops,
            metrics,
            head=head,
            kind="text_completion",
            include_usage=include_usage,
        )
        self._echoes = echoes
        self._tail = b',"logprobs":null,"finish_reason":null}' + self.end

    @property
    def tail(self) -> bytes:
        return self._tail

    def first_chunks(self, output: ChoiceOutput) -> None:
        output.prefix = self.begin + b',"choices":[{"index":%d,"text":' % output.index
        of_prompt = output.index // len(self.sinks[0].outputs)
        echo = self._echoes[of_prompt]
        if self.head.token_ids:
            choice = self._choice(output, echo, None)
            choice["prompt_token_ids"] = list(self.sinks[of_prompt].request.prompt)
            choice["token_ids"] = []
            self.write_choice(choice)
        elif echo:
            self.write(output.prefix + orjson.dumps(echo) + self.tail)

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
            token_bytes = self.model.tokenizer.token_bytes
            choice["logprobs"] = logprobs.completion(records, token_bytes)
        if self.head.token_ids:
            choice["token_ids"] = [record.token for record in records]
        self.write_choice(choice)

    def _choice(self, output: ChoiceOutput, text: str, finish: str | None) -> CompletionChunkChoice:
        return {"index": output.index, "text": text, "logprobs": None, "finish_reason": finish}
