"""Fail when a page names a command, flag, make target, link or path that is not there.

`python scripts/check_readme.py [PAGE...]`; by default the pages that people read first.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main

from baton.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "docs/request-life.md", "docs/handoff.md"]
# Repository paths in backticks; shortened ones (`gateway/openai.py`) are below services/baton.
PATH = re.compile(r"`([\w.]+(?:/[\w.]+)*/(?:[\w.]+)?)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"@[A-Z_]{3,}@")


def problems(page: Path) -> Iterator[str]:
    if not page.exists():
        yield "the page is not there"
        return
    text = page.read_text()
    for found in PLACEHOLDER.finditer(text):
        yield f"placeholder {found[0]}"
    for target in LINK.findall(text):
        if not (page.parent / target).exists():
            yield f"link to {target}, which is not there"
    for path in PATH.findall(text):
        if not any((root / path).exists() for root in (ROOT, ROOT / "services/baton")):
            yield f"path {path}, which is not there"
    for block in SHELL.findall(text):
        for line in block.splitlines():
            yield from command_problems(shlex.split(line, comments=True))


def command_problems(words: list[str]) -> Iterator[str]:
    if not words:
        return
    name = words[0].rpartition("/")[2]
    if name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in words[1:]:
            if "=" not in word and word not in targets:
                yield f"make target {word}, which is not in the Makefile"
    elif name == "baton" and len(words) > 1:
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        if words[1] not in commands:
            yield f"command baton {words[1]}, which is not there"
            return
        known = {flag for parameter in commands[words[1]].params for flag in parameter.opts}
        for word in words[2:]:
            if word.startswith("-") and word.partition("=")[0] not in known:
                yield f"flag {word}, which baton {words[1]} does not have"


def main() -> int:
    found = 0
    for name in sys.argv[1:] or PAGES:
        for problem in problems(ROOT / name):
            print(f"{name}: {problem}", file=sys.stderr)
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
