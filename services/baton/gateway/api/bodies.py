"""The bodies of OpenAI's completions, as their SDK and vLLM's clients send them.

Requests are parsed strictly (no number in a string, no 1.0 for 1) and unknown fields are refused by
name. Fields that change nothing here are accepted; those that would change the answer and are not
served yet are `Unserved`, which `baton.gateway.api.parse` refuses.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from baton.gateway import request_id

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_SALT_CHARS = 256
MAX_PRIORITY = 2**31 - 1

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
PriorityField = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
RequestId = Annotated[str, Field(pattern=request_id.PATTERN)]

PROMPTS: list[JsonValue] = [
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
]
TEXT_OR_LIST: list[JsonValue] = [{"type": "string"}, {"type": "array", "items": {}}]


class Unserved:
    """Marks a field that is refused, unless it is null or one of the harmless values `but`."""

    __slots__ = ("but", "what")

    def __init__(self, *but: JsonValue, what: str = "") -> None:
        self.but = but
        self.what = what


class Body(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelBody(Body):
    """A request to a model."""

    model: str
    """Name of the model."""


class AnyModelBody(Body):
    """A request to a model that may be left unnamed where there is one only."""

    model: str | None = None
    """Name of the model; not needed where one is served."""


class CachingBody(ModelBody):
    """What all that comes with a prompt shares."""

    cache_ttl: float | None = None
    """Seconds for which the KV of prompt and answer is kept cached after the end, if it can be."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_SALT_CHARS)] | None = None
    """Cached prefixes are shared only with requests of the same salt."""


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool | None = None
    """Send a last chunk with the usage and no choices."""
    continuous_usage_stats: bool | None = None
    """With `include_usage`: the usage so far in every chunk."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded here."""


class SamplingBody(CachingBody):
    """What completions, chats and responses share."""

    temperature: float | None = None
    """0 (greedy) to 2; 1 by default."""
    top_p: float | None = None
    """Nucleus mass, above 0 to 1."""
    top_k: int | None = None
    """Keep the k likeliest tokens; 0 or -1 turns it off."""
    min_p: float | None = None
    """Keep tokens at least this share of the likeliest, 0 to 1."""
    seed: Seed | None = None
    """The same seed gives the same answer; drawn at random when absent."""
    stop: Any = Field(None, json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A string or up to 16 that end the answer and are no part of it."""
    presence_penalty: float | None = None
    """-2 to 2."""
    frequency_penalty: float | None = None
    """-2 to 2."""
    logit_bias: dict[str, float] | None = None
    """Token id (as a string) to a bias between -100 and 100."""
    ignore_eos: bool | None = None
    """Generate on past the end-of-sequence token."""
    min_tokens: int | None = None
    """No end before this many tokens."""
    stop_token_ids: list[int] | None = None
    """Tokens that end the answer besides the model's own."""
    include_stop_str_in_output: bool | None = None
    """Show the stop string, or the text of the token, that ended the answer."""
    skip_special_tokens: bool | None = None
    """Leave special tokens out of the text; true by default."""
    spaces_between_special_tokens: bool | None = None
    """False is refused where it would change shown special tokens."""
    repetition_penalty: Annotated[Any, Unserved(1, what="repetition_penalty other than 1")] = None
    """Only 1."""
    allowed_token_ids: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    bad_words: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    logits_processors: Annotated[Any, Unserved([])] = None
    """Not served."""
    structured_outputs: Annotated[Any, Unserved()] = None
    """Not served yet."""
    kv_transfer_params: Annotated[Any, Unserved({})] = None
    """Not served: the gateway places a request's KV itself."""
    vllm_xargs: Annotated[Any, Unserved({})] = None
    """Not served."""
    moderation: Annotated[Any, Unserved()] = None
    """Not served."""
    priority: PriorityField | str | None = None
    """A class by its name, or a number as vLLM's: lower is served earlier, 0 by default."""
    request_id: RequestId | None = None
    """The answer's id ends with it; drawn when absent."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated."""
    user: str | None = None
    """Requests of one user are best served by the same worker."""
    prompt_cache_key: str | None = None
    """As `user`, and goes before it: prompts are cached by their content."""
    prompt_cache_options: Any = None
    """Accepted; not used."""
    prompt_cache_retention: str | None = None
    """Accepted; not used."""
    metadata: Any = None
    """Accepted; not used."""
    service_tier: str | None = None
    """Accepted; there is one tier."""
    safety_identifier: str | None = None
    """Accepted; not used."""


class GenerationBody(SamplingBody):
    """What completions and chats share."""

    max_tokens: int | None = None
    """Most tokens to generate; by default 16 for completions, the rest of the context for chats."""
    n: Count | None = None
    """Choices for each prompt."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    store: bool | None = None
    """Accepted; nothing is stored."""
    add_special_tokens: bool | None = None
    """Have the tokenizer add its special tokens (BOS); by default to texts, and not to chats."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    """Keep only so many of the prompt's last tokens; -1: as many as leave room for the answer."""
    return_token_ids: bool | None = None
    """Return the prompt's and the answer's token ids, too."""
    return_tokens_as_token_ids: bool | None = None
    """Name tokens among the logprobs `token_id:7`."""
    response_format: Annotated[
        Any, Unserved({"type": "text"}, what="response_format other than text")
    ] = None
    """Only of type `text`."""
    use_beam_search: Annotated[Any, Unserved(False)] = None
    """Not served."""
    length_penalty: float | None = None
    """Accepted; it changes beam search only."""
    early_stopping: bool | None = None
    """Accepted; it changes beam search only."""
    prompt_logprobs: Annotated[Any, Unserved()] = None
    """Not served yet."""
    guided_json: Annotated[Any, Unserved()] = None
    """Not served yet."""
    guided_regex: Annotated[Any, Unserved()] = None
    """Not served yet."""
    guided_choice: Annotated[Any, Unserved()] = None
    """Not served yet."""
    guided_grammar: Annotated[Any, Unserved()] = None
    """Not served yet."""


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Any = Field(None, json_schema_extra={"anyOf": PROMPTS})
    """A text, token ids, or a list of either."""
    logprobs: NumLogprobs | None = None
    """Report logprobs, and those of this many likeliest tokens."""
    echo: bool | None = None
    """Put the prompt before the answer."""
    best_of: int | None = None
    """Only as many as `n`."""
    suffix: Annotated[Any, Unserved("")] = None
    """Not served yet."""
    prompt_embeds: Annotated[Any, Unserved()] = None
    """Not served."""


class ChatMessage(Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who speaks. `developer` is rendered as `system`, `function` as `tool`."""
    content: Any = Field(None, json_schema_extra={"anyOf": TEXT_OR_LIST})
    """A text, or a list of parts of type text."""
    name: str | None = None
    """Given to the chat template."""
    reasoning_content: str | None = None
    """What the assistant thought, given to the chat template."""
    reasoning: str | None = None
    """Another name of `reasoning_content`."""
    tool_calls: list[ToolCall] | None = None
    """Tools that the assistant called, given to the chat template."""
    tool_call_id: str | None = None
    """The call that a message of role `tool` answers."""
    function_call: FunctionCall | None = None
    """Older form of one tool call."""
    refusal: str | None = None
    """Accepted, as answers have it; not used."""
    annotations: list[Any] | None = None
    """Accepted, as answers have it; not used."""
    audio: Annotated[Any, Unserved()] = None
    """Not served yet."""


class FunctionCall(Body):
    """A function and what it was called with."""

    name: str
    arguments: str = ""
    """A JSON object, as text."""


class ToolCall(Body):
    """One call of a tool by the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Accepted, as streamed answers have it; not used."""


class TemplateBody(Body):
    """How a chat is rendered."""

    add_generation_prompt: bool | None = None
    """Have the template begin the assistant's turn; true unless `continue_final_message`."""
    continue_final_message: bool | None = None
    """Go on with the last message instead of answering it."""
    chat_template: str | None = None
    """A template instead of the model's; only where gateway.trust_request_chat_template is on."""
    chat_template_kwargs: dict[str, Any] | None = None
    """More variables for the template (`enable_thinking`)."""
    documents: list[dict[str, Any]] | None = None
    """Given to the template."""
    tools: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    media_io_kwargs: Any = None
    """Accepted; media are not served yet."""
    mm_processor_kwargs: Any = None
    """Accepted; media are not served yet."""


class ChatBody(TemplateBody, GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    """The chat so far."""
    max_completion_tokens: int | None = None
    """Newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Report logprobs."""
    top_logprobs: NumLogprobs | None = None
    """And those of this many likeliest tokens; needs `logprobs`."""
    parallel_tool_calls: bool | None = None
    """Accepted; there are no tools yet."""
    prediction: Any = None
    """Accepted; only a hint for speed."""
    tool_choice: Annotated[Any, Unserved("none", what="tool_choice other than none")] = None
    """Only `none`."""
    functions: Annotated[Any, Unserved([])] = None
    """Not served yet."""
    function_call: Annotated[Any, Unserved("none", what="function_call other than none")] = None
    """Only `none`."""
    modalities: Annotated[Any, Unserved(["text"], what="modalities other than text")] = None
    """Only `text`."""
    audio: Annotated[Any, Unserved()] = None
    """Not served yet."""
    web_search_options: Annotated[Any, Unserved()] = None
    """Not served yet."""
    reasoning_effort: Annotated[Any, Unserved()] = None
    """Not served yet; templates that know it take it in `chat_template_kwargs`."""
    thinking_token_budget: Annotated[Any, Unserved()] = None
    """Not served yet."""
    include_reasoning: Annotated[Any, Unserved(True, what="include_reasoning: false")] = None
    """Only true: reasoning is not told apart from the answer yet."""
    verbosity: Annotated[Any, Unserved()] = None
    """Not served yet."""
    echo: Annotated[Any, Unserved(False)] = None
    """Not served for chats."""


class TokenizeBody(TemplateBody, AnyModelBody):
    """POST /tokenize."""

    prompt: str | None = None
    """A text; or give `messages`."""
    messages: list[ChatMessage] | None = None
    """A chat."""
    add_special_tokens: bool | None = None
    """Have the tokenizer add its special tokens (BOS); by default to texts, and not to chats."""
    return_token_strs: bool | None = None
    """Return how the vocabulary spells each token, too."""


class DetokenizeBody(AnyModelBody):
    """POST /detokenize."""

    tokens: list[int]
    """Token ids."""


class PrefetchBody(CachingBody):
    """POST /v1/baton/prefetch."""

    messages: list[ChatMessage] | None = None
    """The chat that is about to come, or its beginning; or give `prompt`."""
    prompt: Any = Field(None, json_schema_extra={"anyOf": PROMPTS})
    """As for completions."""
    from_worker: str | None = None
    """Id of a worker whose cache holds more of it than others do."""
