"""Answers of /v1/chat/completions: one JSON document, or a stream of chunks."""

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
from baton.gateway.api.schemas import ChatChoice, ChatChunkChoice, ChatCompletion


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
        choice: ChatChoice = {
            "index": output.index,
            "message": {"role": "assistant", "content": self.text(output), "refusal": None},
            "logprobs": logprobs.chat(output.records, head.token_bytes) if head.logprobs else None,
            "finish_reason": output.finish_name,
        }
        if head.token_ids:
            choice["token_ids"] = [r.token for r in output.records]
        return choice


class ChatStream(ChunkStream):
    """The answer as chunks."""

    def __init__(
        self,
        model: ServedModel,
        requests: Sequence[Request],
        text: TextParams,
        metrics: CallMetrics,
        *,
        head: Head,
        usage: UsageShown,
    ) -> None:
        super().__init__(
            model,
            requests,
            text,
            metrics,
            head=head,
            kind="chat.completion.chunk",
            usage=usage,
        )
        self.tail = b'},"logprobs":null,"finish_reason":null}' + self.end

    def first_chunks(self, output: ChoiceOutput) -> None:
        choice = b',"choices":[{"index":%d,"delta":{"content":' % output.index
        output.prefix = self.begin + choice
        prompt = b""
        if self.head.token_ids and output.index == 0:
            prompt = b',"prompt_token_ids":' + orjson.dumps(self.sinks[0].request.prompt)
        first: ChatChunkChoice = {
            "index": output.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        self.write_choice(first, prompt)

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
        shown = self.head.logprobs and records
        choice: ChatChunkChoice = {
            "index": output.index,
            "delta": {"content": text} if text else {},
            "logprobs": logprobs.chat(records, self.head.token_bytes) if shown else None,
            "finish_reason": finish,
        }
        if self.head.token_ids:
            choice["token_ids"] = [record.token for record in records]
        self.write_choice(choice)
