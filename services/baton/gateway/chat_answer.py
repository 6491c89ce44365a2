"""Answers of /v1/chat/completions: one JSON document, or a stream of chunks."""

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
from baton.gateway.schemas import ChatChoice, ChatChunkChoice, ChatCompletion
from baton.gateway.stream import EventStream


class ChatDocument(Collected):
    """The answer in one piece."""

    def document(self) -> ChatCompletion:
        head = self.head
        answer: ChatCompletion = {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": self.model.name,
            "choices": [self._choice(o) for s in self.sinks for o in s.outputs],
            "usage": self.usage(),
            "system_fingerprint": None,
        }
        if head.token_ids:
            answer["prompt_token_ids"] = list(self.sinks[0].request.prompt)
        return answer

    def _choice(self, output: ChoiceOutput) -> ChatChoice:
        head = self.head
        token_bytes = self.model.tokenizer.token_bytes
        choice: ChatChoice = {
            "index": output.index,
            "message": {"role": "assistant", "content": self.text(output), "refusal": None},
            "logprobs": logprobs.chat(output.records, token_bytes) if head.logprobs else None,
            "finish_reason": output.finish_name,
        }
        if head.token_ids:
            choice["token_ids"] = [r.token for r in output.records]
        return choice


class ChatStream(EventStream):
    """The answer as chunks."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        stops: Sequence[str],
        metrics: CallMetrics,
        *,
        head: Head,
        include_usage: bool,
    ) -> None:
        super().__init__(
            model,
            requests,
            stops,
            metrics,
            head=head,
            kind="chat.completion.chunk",
            include_usage=include_usage,
        )
        self._tail = b'},"logprobs":null,"finish_reason":null}' + self.end

    @property
    def tail(self) -> bytes:
        return self._tail

    def first_chunks(self, output: ChoiceOutput) -> None:
        choice = b',"choices":[{"index":%d,"delta":{' % output.index
        output.prefix = self.begin + choice + b'"content":'
        prompt = b""
        if self.head.token_ids and output.index == 0:
            prompt = b',"prompt_token_ids":' + orjson.dumps(self.sinks[0].request.prompt)
        self.write(self.begin + prompt + choice + b'"role":"assistant","content":""' + self.tail)

    def last_chunk(self, output: ChoiceOutput, text: str) -> None:
        # As OpenAI's: the reason has a chunk of its own, with an empty delta.
        if self.details:
            if text:
                self.detailed_chunk(output, text, None)
            self.detailed_chunk(output, "", output.finish_name)
            return
        end = b'%s,"choices":[{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%s"}%s' % (
            self.begin,
            output.index,
            output.finish_name.encode(),
            self.end,
        )
        self.write(output.prefix + orjson.dumps(text) + self.tail + end if text else end)

    def detailed_chunk(self, output: ChoiceOutput, text: str, finish: str | None) -> None:
        records, output.records = output.records, []
        token_bytes = self.model.tokenizer.token_bytes
        shown = self.head.logprobs and records
        choice: ChatChunkChoice = {
            "index": output.index,
            "delta": {"content": text} if text else {},
            "logprobs": logprobs.chat(records, token_bytes) if shown else None,
            "finish_reason": finish,
        }
        if self.head.token_ids:
            choice["token_ids"] = [record.token for record in records]
        self.write_choice(choice)
