"""CRDs are newer than the operator after a rollback, and for a moment in each upgrade."""

from __future__ import annotations

from typing import Any

import pytest

from baton_operator.rounds.observe import SpecError, service_seen


def _manifest(pool: dict[str, Any]) -> dict[str, Any]:
    spec = {"model": {"source": "baton-tiny", "later": {"a": 1}}, "pools": [pool], "later": True}
    meta = {"name": "demo", "namespace": "here", "uid": "u", "generation": 1}
    return {"metadata": meta, "spec": spec}


def test_fields_that_only_the_crd_knows_are_left_alone() -> None:
    seen = service_seen(_manifest({"name": "all", "role": "any", "later": "x"}))
    assert [pool.name for pool in seen.spec.pools] == ["all"]


def test_known_fields_are_still_judged() -> None:
    with pytest.raises(SpecError, match=r"pools\.0\.role"):
        service_seen(_manifest({"name": "all", "role": "other", "later": "x"}))
