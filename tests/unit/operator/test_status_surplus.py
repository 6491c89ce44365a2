"""What somebody wrote into a status beside the operator is taken out, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from baton_operator.rounds.surplus import surplus

# As a status is: no nulls in it, lists replaced as a whole.
values = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=1),
    lambda inner: (
        st.dictionaries(st.sampled_from("xyz"), inner, max_size=3) | st.lists(inner, max_size=2)
    ),
    max_leaves=8,
)
statuses = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def merged(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(statuses, statuses)
def test_applied_over_anything_and_rid_of_the_surplus_it_is_what_was_wanted(
    before: dict[str, Any], wanted: dict[str, Any]
) -> None:
    live = merged(copy.deepcopy(before), wanted)
    assert merged(live, surplus(live, wanted)) == wanted


@given(statuses)
def test_nothing_is_surplus_where_it_is_as_wanted(wanted: dict[str, Any]) -> None:
    assert surplus(wanted, wanted) == {}


def test_fields_and_items_of_others_are_named() -> None:
    live = {"phase": "Ready", "revision": {"current": "a", "failed": "b"}, "pools": [1, 2]}
    wanted = {"phase": "Ready", "revision": {"current": "a"}, "pools": [1]}
    assert surplus(live, wanted) == {"revision": {"failed": None}, "pools": [1]}
