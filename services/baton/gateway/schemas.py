"""The bodies of OpenAI's API: what requests may hold, and the shapes of answers.

Requests are parsed strictly (no number in a string, no 1.0 for 1) and unknown fields are refused by
name. Fields of OpenAI's that change nothing here are accepted; those that would change the answer
and are not served yet are refused in `baton.gateway.parse`. Answers are plain dicts of the shapes
below, rendered by orjson.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from typing_extensions import TypedDict

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_SALT_CHARS = 256

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=MAX_CHOICES)]


_PROMPTS: list[JsonValue] = [
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
]


class Body(BaseModel):
    """A JSON object of a request."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool | None = None
    """Send a last chunk with the usage and no choices."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded here."""


class CachingBody(Body):
    """What all that comes with a prompt shares."""

    model: str
    """Name of the model."""
    cache_ttl: float | None = None
    """Seconds for which the KV of prompt and answer is kept cached after the end, if it can be."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_SALT_CHARS)] | None = None
    """Cached prefixes are shared only with requests of the same salt."""


class GenerationBody(CachingBody):
    """What both kinds of completion share."""

    max_tokens: int | None = None
    """Most tokens to generate; by default 16 for completions, the rest of the context for chats."""
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
    stop: Any = Field(None, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array"}]})
    """A string or up to 16 that end the answer and are no part of it."""
    n: Count | None = None
    """Choices for each prompt."""
    presence_penalty: float | None = None
    """-2 to 2."""
    frequency_penalty: float | None = None
    """-2 to 2."""
    logit_bias: dict[str, float] | None = None
    """Token id (as a string) to a bias between -100 and 100."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    user: str | None = None
    """Accepted; not used."""
    ignore_eos: bool | None = None
    """Generate on past the end-of-sequence token."""
    min_tokens: int | None = None
    """No end before this many tokens."""
    stop_token_ids: list[int] | None = None
    """Tokens that end the answer besides the model's own."""
    return_token_ids: bool | None = None
    """Return the prompt's and the answer's token ids, too."""
    metadata: Any = None
    """Accepted; not used."""
    store: bool | None = None
    """Accepted; nothing is stored."""
    service_tier: str | None = None
    """Accepted; there is one tier."""
    prompt_cache_key: str | None = None
    """Accepted; prompts are cached by their content."""
    safety_identifier: str | None = None
    """Accepted; not used."""


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Any = Field(None, json_schema_extra={"anyOf": _PROMPTS})
    """A text, token ids, or a list of either."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Report logprobs, and those of this many likeliest tokens."""
    echo: bool | None = None
    """Put the prompt before the answer."""
    best_of: int | None = None
    """Only as many as `n`."""
    suffix: str | None = None
    """Not served yet."""


class ChatMessage(Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who speaks. `developer` is rendered as `system`."""
    content: Any = Field(None, json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array"}]})
    """A text, or a list of parts of type text."""
    name: str | None = None
    """Given to the chat template."""
    refusal: str | None = None
    """Accepted, as answers have it; not used."""
    annotations: list[Any] | None = None
    """Accepted, as answers have it; not used."""
    audio: Any = None
    """Not served yet."""
    tool_calls: list[Any] | None = None
    """Not served yet."""
    tool_call_id: str | None = None
    """Not served yet."""
    function_call: Any = None
    """Not served yet."""


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    """The chat so far."""
    max_completion_tokens: int | None = None
    """Newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Report logprobs."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """And those of this many likeliest tokens; needs `logprobs`."""
    parallel_tool_calls: bool | None = None
    """Accepted; there are no tools yet."""
    prediction: Any = None
    """Accepted; only a hint for speed."""
    prompt_cache_retention: str | None = None
    """Accepted; not used."""
    tools: list[Any] | None = None
    """Not served yet."""
    tool_choice: Any = None
    """Only `none`."""
    functions: list[Any] | None = None
    """Not served yet."""
    function_call: Any = None
    """Only `none`."""
    response_format: dict[str, Any] | None = None
    """Only of type `text`."""
    modalities: list[str] | None = None
    """Only `text`."""
    audio: Any = None
    """Not served yet."""
    web_search_options: Any = None
    """Not served yet."""
    reasoning_effort: str | None = None
    """Not served yet."""
    verbosity: str | None = None
    """Not served yet."""


class PrefetchBody(CachingBody):
    """POST /v1/baton/prefetch."""

    messages: list[ChatMessage] | None = None
    """The chat that is about to come, or its beginning; or give `prompt`."""
    prompt: Any = Field(None, json_schema_extra={"anyOf": _PROMPTS})
    """As for completions."""
    from_worker: str | None = None
    """Id of a worker whose cache holds more of it than others do."""


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: NotRequired[list[int]]


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: None
    prompt_token_ids: NotRequired[list[int]]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: None


class CompletionChunkChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


class CompletionChunk(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChunkChoice]
    usage: NotRequired[Usage | None]


class Delta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    token_ids: NotRequired[list[int]]


class ChatChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    prompt_token_ids: NotRequired[list[int]]


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


class ToldWorker(TypedDict):
    id: str
    role: str


class PrefetchedPrompt(TypedDict):
    prompt_tokens: int
    workers: list[ToldWorker]


class Prefetched(TypedDict):
    object: Literal["baton.prefetch"]
    model: str
    cache_ttl: float
    prompts: list[PrefetchedPrompt]


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(TypedDict):
    error: ErrorDetail
