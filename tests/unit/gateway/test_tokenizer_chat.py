"""Chat templates, against transformers' apply_chat_template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from baton.core.errors import InvalidRequestError, ModelLoadError
from baton.gateway.text import chat_template
from baton.gateway.text.chat_template import ChatTemplate
from baton.gateway.text.tokenizer import Tokenizer
from fakes.small_tokenizer import CHAT_TEMPLATE, byte_level, write_folder

RAW = byte_level()
# The constructs that well-known models' templates use.
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "default system": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}\n"
        "{%- else %}\n    {%- set system = 'You help.' %}{%- set rest = messages %}\n{%- endif %}\n"
        "{{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}\n"
        "{%- for m in rest %}\n"
        "  {%- if loop.last %}{{- '[last]' }}{%- endif %}\n"
        "  {{- m.role + ': ' + m.content|trim + eos_token }}\n"
        "{%- endfor %}\n{%- if tools %}{{ tools | tojson }}{% endif %}\n"
        "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
    ),
    "namespace and break": (
        "{% set ns = namespace(found=false) %}{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% set ns.found = true %}{% break %}{% endif %}"
        "{{ m.content | tojson }}{% endfor %}{{ ns.found }}{{ dict(a=1) }}"
        "{% for m in messages if m.role == 'user' %}{{ m['content'][:3] }}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    ),
}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": st.text(alphabet=st.characters(codec="utf-8"), max_size=20),
        }
    ),
    min_size=1,
    max_size=4,
)


def reference(template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=RAW, bos_token="<s>", eos_token="</s>", chat_template=template
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_chat_is_that_of_transformers(name: str) -> None:
    theirs = reference(TEMPLATES[name])
    ours = ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})

    @given(MESSAGES)
    def check(messages: list[dict[str, str]]) -> None:
        wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.render(messages) == wanted

    check()


async def test_tokens_of_a_chat_are_those_of_transformers(tmp_path: Path) -> None:
    write_folder(tmp_path, RAW)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  hello 你好 <|im_end|> 🎉 "},
    ]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert await tokenizer.encode_chat(messages, 512) == wanted


async def test_long_chats_give_the_same_tokens_off_the_loop(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_folder(tmp_path, RAW))
    long = [{"role": "user", "content": "hello " * 2000}]
    ids = await tokenizer.encode_chat(long, 100_000)
    assert tokenizer.decode(ids).startswith("user\nhello hello")
    assert ids[:2] == [0, 2]
    tokenizer.close()


def test_a_template_that_refuses_is_quoted() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        template.render([{"role": "user", "content": "hi"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__x=1) }}",
    ],
)
def test_templates_are_kept_in_their_sandbox(source: str) -> None:
    with pytest.raises(InvalidRequestError):
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])


def test_template_of_a_file_comes_before_the_config(tmp_path: Path) -> None:
    write_folder(tmp_path, RAW, "from config")
    (tmp_path / "chat_template.jinja").write_text("from file")
    loaded = chat_template.load(tmp_path)
    assert loaded is not None and loaded.render([]) == "from file"


def test_named_templates_take_the_default(tmp_path: Path) -> None:
    named: list[dict[str, Any]] = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "plain {{ eos_token }}"},
    ]
    loaded = chat_template.load(write_folder(tmp_path, RAW, named))
    assert loaded is not None and loaded.render([]) == "plain </s>"


def test_named_templates_without_default_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, RAW, [{"name": "rag", "template": "x"}])
    with pytest.raises(ModelLoadError, match="none called default"):
        chat_template.load(tmp_path)


def test_no_template_is_no_error(tmp_path: Path) -> None:
    assert chat_template.load(write_folder(tmp_path, RAW, None)) is None


def test_template_that_does_not_compile_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, RAW, "{% if %}")
    with pytest.raises(ModelLoadError, match="does not compile"):
        chat_template.load(tmp_path)


def test_special_tokens_come_from_either_file(tmp_path: Path) -> None:
    write_folder(tmp_path, RAW, "{{ bos_token }}{{ pad_token }}")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    loaded = chat_template.load(tmp_path)
    assert loaded is not None and loaded.render([]) == "<s><pad>"
