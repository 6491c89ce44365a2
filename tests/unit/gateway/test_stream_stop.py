"""Stop strings: found wherever the text is cut, never shown, and nothing held back needlessly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.request import FinishReason
from baton.gateway.answer.output import ChoiceOutput, TextParams
from baton.gateway.answer.stop import StopMatcher
from baton.gateway.text.tokenizer import Tokenizer
from fakes.gateway import text_tokens
from fakes.small_tokenizer import byte_level

FEW = st.text(alphabet="ab", max_size=5)
STOPS = st.lists(FEW.filter(bool), min_size=1, max_size=4)


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the shown text ends: the stop whose end comes first, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return end - max(map(len, ending))
    return None


@given(st.lists(FEW, max_size=12), STOPS, st.booleans())
def test_shown_text_does_not_depend_on_the_cut(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    matcher = StopMatcher(stops, include)
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.matched:
            break
    else:
        shown += matcher.flush()
    text = "".join(pieces)
    end = first_stop(text, stops)
    assert (matcher.matched is not None) == (end is not None)
    stop = (matcher.matched or "") if include else ""
    assert shown == text[:end] + stop
    assert text.startswith(shown)


@given(st.lists(FEW, max_size=12), STOPS)
def test_only_a_possible_beginning_of_a_stop_is_held_back(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    text = shown = ""
    for piece in pieces:
        text += piece
        shown += matcher.push(piece)
        if matcher.matched:
            return
        held = text[len(shown) :]
        assert held == "" or any(s.startswith(held) and s != held for s in stops)


def test_the_shorter_of_two_nested_stops_wins_when_it_ends_first() -> None:
    matcher = StopMatcher(["abc", "b"])
    assert matcher.push("xabc") == "xa"
    assert matcher.matched


def output(stops: list[str], min_tokens: int = 0) -> ChoiceOutput:
    return ChoiceOutput(
        0, Tokenizer(byte_level()).detokenizer(), TextParams(tuple(stops)), min_tokens
    )


def test_stop_string_across_tokens_ends_the_choice() -> None:
    choice = output([" th"])
    shown = [choice.push(token, None) for token in text_tokens("hello w")]
    assert "".join(shown) == "hello w"
    rest = "".join(choice.push(t, None) for t in text_tokens(" t") if choice.finish is None)
    assert rest == "" and choice.finish is None
    assert choice.push(text_tokens("h")[0], None) == ""
    assert choice.finish is FinishReason.STOP and choice.finish_name == "stop"


def test_held_back_text_is_shown_at_the_end() -> None:
    choice = output(["world!"])
    tokens = text_tokens("hello wor")
    shown = "".join(choice.push(t, None) for t in tokens[:-1])
    shown += choice.push(tokens[-1], FinishReason.LENGTH)
    assert shown == "hello wor"
    assert choice.finish is FinishReason.LENGTH


def test_end_of_sequence_token_is_not_shown() -> None:
    choice = output([])
    assert choice.push(text_tokens("hello")[0], FinishReason.STOP) == ""
    assert choice.num_tokens == 1


def test_half_a_character_at_the_end_shows_a_replacement() -> None:
    choice = output([])
    tokens = text_tokens("🎉")
    assert [choice.push(t, None) for t in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert choice.push(1, FinishReason.STOP) == "\ufffd"


def test_stop_strings_do_not_end_before_min_tokens() -> None:
    tokens = text_tokens("a") * 6
    choice = output(["a"], min_tokens=4)
    shown = []
    for token in tokens:
        shown.append(choice.push(token, None))
        if choice.finish is not None:
            break
    assert shown == ["a", "a", "a", ""]


@pytest.mark.parametrize("stop", ["🎉", "é c"])
def test_stop_strings_of_several_bytes(stop: str) -> None:
    choice = output([stop])
    shown = ""
    for token in text_tokens("naïve café c🎉 and on"):
        shown += choice.push(token, None)
        if choice.finish is not None:
            break
    assert shown == "naïve café c🎉 and on".split(stop)[0]
