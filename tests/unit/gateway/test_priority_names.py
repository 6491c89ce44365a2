"""From what clients send to a class; and who gives way when the queue is full."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import ValidationError

from baton.core.errors import InvalidRequestError
from baton.core.named_numbers import parse_named_numbers
from baton.core.settings import GatewaySettings
from baton.gateway.queue.backlog import Backlog
from baton.gateway.queue.priority_classes import Priorities

CLASSES = Priorities("high=1,normal=0,low=-1")


@pytest.mark.parametrize(
    ("field", "header", "wanted"),
    [
        (None, None, 0),
        ("high", None, 1),
        ("low", None, -1),
        (0, None, 0),
        # As vLLM: lower goes first.
        (-1, None, 1),
        (7, None, -1),
        (-(10**30), None, 1),
        ("-5", None, 1),
        (None, b"low", -1),
        (None, b" high ", 1),
        ("high", b"low", -1),
        (None, b"3", -1),
    ],
)
def test_field_and_header_name_a_class(
    field: int | str | None, header: bytes | None, wanted: int
) -> None:
    assert CLASSES.wanted(field, header) == wanted


@pytest.mark.parametrize(
    ("field", "header", "param"),
    [("urgent", None, "priority"), ("", None, "priority"), (None, b"\xff", "x-priority")],
)
def test_other_names_are_the_clients_error(
    field: str | None, header: bytes | None, param: str
) -> None:
    with pytest.raises(InvalidRequestError, match="high, normal, low") as caught:
        CLASSES.wanted(field, header)
    assert caught.value.param == param


def test_without_a_class_at_zero_the_lower_of_the_nearest_is_usual() -> None:
    assert Priorities("a=5,b=-5").wanted(None) == -5
    assert Priorities("only=3").wanted(None) == 3


@given(st.integers())
def test_every_priority_has_a_class_with_a_name(priority: int) -> None:
    assert CLASSES.name(priority) in CLASSES.names


@pytest.mark.parametrize(
    "text", ["", "high", "a=x", "a=1,a=2", "a=1,b=1", "a=1.5", "=1", "a b=1", "a=1e999"]
)
def test_wrong_classes_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(priorities=text)


@pytest.mark.parametrize("text", ["a=0", "a=-1", "a", "a=1,a=1"])
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(tenant_weights=text)


def test_lists_are_read_with_blanks() -> None:
    assert parse_named_numbers(" a = 1 , b=0.5,") == {"a": 1.0, "b": 0.5}


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-1, 1), st.sampled_from("ab")), min_size=1, max_size=40
    ),
    st.integers(-1, 1),
    st.sampled_from("abc"),
)
def test_the_lowest_class_and_its_longest_tenant_give_way(
    operations: list[tuple[bool, int, str]], priority: int, tenant: str
) -> None:
    weights = {"a": 2.0}
    backlog: Backlog[tuple[int, int, str]] = Backlog(lambda name: weights.get(name, 1.0))
    here: list[tuple[int, int, str]] = []
    for number, (is_push, its_priority, its_tenant) in enumerate(operations):
        if is_push or not here:
            here.append((number, its_priority, its_tenant))
            backlog.add(here[-1], its_priority, its_tenant)
        else:
            gone = here.pop(len(here) // 2)
            backlog.remove(gone, *gone[1:])
            backlog.remove(gone, *gone[1:])
    victim = backlog.to_displace(priority, tenant)

    def load(items: list[tuple[int, int, str]], name: str, extra: int = 0) -> float:
        return (sum(item[2] == name for item in items) + extra) / weights.get(name, 1.0)

    lowest = min((item[1] for item in here), default=None)
    if lowest is None or lowest > priority:
        assert victim is None
        return
    same = [item for item in here if item[1] == lowest]
    longest = max(load(same, name) for name in "ab")
    if lowest == priority and longest <= load(same, tenant, 1):
        assert victim is None
        return
    assert victim is not None
    assert victim[1] == lowest
    assert load(same, victim[2]) == longest
    assert victim == [item for item in same if item[2] == victim[2]][-1], "its youngest"
