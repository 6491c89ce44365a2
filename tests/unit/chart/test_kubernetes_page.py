"""docs/kubernetes.md explains every reason that the operator gives, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/kubernetes.md").read_text()
OPERATOR = ROOT / "operators/baton_operator"


def _told() -> set[str]:
    table = PAGE.partition("| condition | reason |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.count("|") >= 4]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def _in_code(pattern: str) -> set[str]:
    """In any module but those that only build manifests, types and CRDs."""
    text = "\n".join(
        path.read_text()
        for path in sorted(OPERATOR.rglob("*.py"))
        if not {"resources", "types", "crds"} & set(path.relative_to(OPERATOR).parts)
    )
    return set(re.findall(pattern, text))


def test_page_explains_no_reason_that_the_operator_never_gives() -> None:
    assert _told() <= _in_code(r'"([A-Z][A-Za-z]+)"')


def test_page_explains_every_trouble() -> None:
    troubles = _in_code(r'Trouble\(\s*"(\w+)"')
    failed = _in_code(r'failed=True,\s*reason="(\w+)"')
    assert troubles and failed
    assert troubles | failed <= _told()
