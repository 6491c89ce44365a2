"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from baton.core.errors import InvalidRequestError
from baton.gateway.answer.lifecycle import Intake
from baton.gateway.api.bodies import DetokenizeBody, TokenizeBody
from baton.gateway.api.chat_messages import template_messages
from baton.gateway.api.json_post import JsonPost
from baton.gateway.api.schemas import Detokenized, Tokenized
from baton.gateway.api.wanted import render_options
from baton.gateway.http.arrival import Arrival
from baton.gateway.http.exchange import Exchange


class Tokenize(JsonPost[TokenizeBody]):
    """Token ids of a text or a chat, however long: nothing is generated."""

    api = "tokenize"
    body = TokenizeBody

    def check(self, body: TokenizeBody) -> None:
        if (body.messages is None) == (body.prompt is None):
            raise InvalidRequestError("Provide either 'messages' or 'prompt'.", param="prompt")

    async def answer(
        self, call: Intake, body: TokenizeBody, at: Arrival, exchange: Exchange
    ) -> Tokenized:
        model = call.model(body.model)
        tokenizer = model.tokenizer
        if body.messages is not None:
            trusts = call.context.settings.trust_request_chat_template
            tokens = await tokenizer.encode_chat(
                template_messages(body.messages),
                None,
                render_options(body, trusts_templates=trusts),
                special=bool(body.add_special_tokens),
            )
        else:
            special = body.add_special_tokens is not False
            (tokens,) = await tokenizer.encode_texts([body.prompt or ""], None, special=special)
        return {
            "count": len(tokens),
            "max_model_len": model.context_length,
            "tokens": tokens,
            "token_strs": await tokenizer.pieces(tokens) if body.return_token_strs else None,
        }


class Detokenize(JsonPost[DetokenizeBody]):
    """The text of token ids, special tokens included."""

    api = "detokenize"
    body = DetokenizeBody

    async def answer(
        self, call: Intake, body: DetokenizeBody, at: Arrival, exchange: Exchange
    ) -> Detokenized:
        model = call.model(body.model)
        for token in body.tokens:
            if not 0 <= token < model.vocab_size:
                raise InvalidRequestError(
                    f"Invalid 'tokens': token id {token} is not between 0 and "
                    f"{model.vocab_size - 1}.",
                    param="tokens",
                )
        return {"prompt": await model.tokenizer.detokenize(body.tokens)}
