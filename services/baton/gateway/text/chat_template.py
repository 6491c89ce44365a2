"""Chat templates of Hugging Face folders, rendered as `transformers` renders them, without it.

The environment (sandbox, filters, globals, whitespace rules, the `generation` tag) follows
`transformers.utils.chat_template_utils`; templates come from strangers, so they run in Jinja's
immutable sandbox and see only plain data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baton.core.errors import InvalidRequestError, ModelLoadError

Message = Mapping[str, Any]

# Put behind the text that is to be continued, to find where it ends. Templates that trim texts
# leave all but the space. As in transformers.
_END_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "chat_template"})


class RenderOptions(NamedTuple):
    """How a chat becomes a prompt, apart from its messages."""

    add_generation_prompt: bool = True
    """End where the assistant is to speak."""
    continue_final: bool = False
    """End inside the last message, which the answer goes on with. Excludes the former."""
    variables: Mapping[str, Any] = MappingProxyType({})
    """More variables for the template."""
    documents: Sequence[Mapping[str, Any]] | None = None
    """Documents for the template."""
    template: str | None = None
    """Source of a template instead of the model's; the caller must be trusted with it."""


PLAIN = RenderOptions()


class ChatTemplate:
    """A compiled template and the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Raises ModelLoadError for a template that does not compile."""
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelLoadError(f"the chat template does not compile: {error}") from error
        # As a chain of dicts, which is what jinja makes of them, copying the globals for a render
        # costs more than a short chat's render itself.
        self._template.globals = dict(self._template.globals)
        self.special_tokens = dict(special_tokens or {})
        self._renders_calls = "tool_calls" in source

    def render(self, messages: Sequence[Message], options: RenderOptions = PLAIN) -> str:
        """The prompt's text.

        Raises InvalidRequestError with the template's own words when it refuses the messages.
        """
        _check(options)
        if not self._renders_calls and any(message.get("tool_calls") for message in messages):
            raise InvalidRequestError(
                "the model's chat template knows no tool calls, and would leave them out",
                param="messages",
            )
        text = self._render(_marked(messages) if options.continue_final else messages, options)
        return _up_to_mark(text) if options.continue_final else text

    def _render(self, messages: Sequence[Message], options: RenderOptions) -> str:
        try:
            return self._template.render(
                {**self.special_tokens, **options.variables},
                messages=messages,
                tools=None,
                documents=options.documents,
                add_generation_prompt=options.add_generation_prompt,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error


def _check(options: RenderOptions) -> None:
    if options.continue_final and options.add_generation_prompt:
        raise InvalidRequestError(
            "Setting 'continue_final_message' and 'add_generation_prompt' at the same time is not "
            "supported: one goes on with the last message, the other begins a new one.",
            param="continue_final_message",
        )
    if taken := sorted(_RESERVED & options.variables.keys()):
        raise InvalidRequestError(
            f"Invalid 'chat_template_kwargs': {taken[0]} has a parameter of its own.",
            param="chat_template_kwargs",
        )


def _marked(messages: Sequence[Message]) -> list[Message]:
    """The chat with a mark where its last text ends."""
    last = messages[-1]
    if last.get("tool_calls"):
        raise InvalidRequestError(
            "'continue_final_message' needs a last message without tool calls.",
            param="continue_final_message",
        )
    return [*messages[:-1], {**last, "content": last["content"] + _END_MARK}]


def _up_to_mark(text: str) -> str:
    at = text.rfind(_END_MARK.strip())
    if at < 0:
        raise InvalidRequestError(
            "the model's chat template does not show the last message, so it cannot be continued",
            param="continue_final_message",
        )
    # Without the mark's space the template trims, so it would have trimmed the text's own end.
    return text[:at] if text.startswith(_END_MARK, at) else text[:at].rstrip()


def load(folder: Path) -> ChatTemplate | None:
    """The template of a model folder, or None when it has none. Raises ModelLoadError."""
    config = _read_json(folder / "tokenizer_config.json")
    source = _source(folder, config)
    if source is None:
        return None
    return ChatTemplate(source, _special_tokens(folder, config))


def _source(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if found is None:
        found = _read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {t["name"]: t["template"] for t in found if isinstance(t, dict)}
        if "default" not in named:
            raise ModelLoadError(
                f"{folder} has chat templates {sorted(named)} and none called default; add one"
            )
        found = named["default"]
    if found is not None and not isinstance(found, str):
        raise ModelLoadError(f"{folder}: chat_template must be a string or a list of named ones")
    return found


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ...: a string each, or an object with its content."""
    tokens: dict[str, str] = {}
    for document in (_read_json(folder / "special_tokens_map.json"), config):
        for name, value in document.items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                tokens[name] = content
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path} must hold a JSON object")
    return document


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace whose names cannot reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Jinja's own trick: `self` is not a name, so that `namespace(self=...)` works.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} starts with _")


class _Dict:
    """`dict(...)` without the type's other attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment
