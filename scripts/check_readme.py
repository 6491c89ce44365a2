"""Fail when a page names a command, flag, make target, link or path that is not there.

`python scripts/check_readme.py [PAGE...]`; by default all pages for people.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from baton.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
]
# Repository paths in backticks; shortened ones (`gateway/openai.py`) are below services/baton.
PATH = re.compile(r"`([\w.]+(?:/[\w.]+)*/(?:[\w.]+)?)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
SHELL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# `make bench-router`, `baton drain ID`.
SPAN = re.compile(r"`((?:make|baton) [^`]+)`")
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
        for line in block.replace("\\\n", " ").splitlines():
            yield from command_problems(shlex.split(line, comments=True))
    for span in SPAN.findall(text):
        yield from command_problems(shlex.split(span))


def command_problems(words: list[str]) -> Iterator[str]:
    if not words:
        return
    name = words[0].rpartition("/")[2]
    if name == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in words[1:]:
            if "=" not in word and word not in targets:
                yield f"make target {word}, which is not in the Makefile"
    elif name == "baton" and len(words) > 1:
        command: Any = typer.main.get_command(app)
        said, rest = "baton", words[1:]
        # `baton keys create` is a command of a command.
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            said += f" {rest[0]}"
            if rest[0] not in command.commands:
                yield f"command {said}, which is not there"
                return
            command, rest = command.commands[rest[0]], rest[1:]
        known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        for word in rest:
            if word.startswith("-") and word.partition("=")[0] not in known:
                yield f"flag {word}, which {said} does not have"


def main() -> int:
    found = 0
    for name in sys.argv[1:] or PAGES:
        for problem in problems(ROOT / name):
            print(f"{name}: {problem}", file=sys.stderr)
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
