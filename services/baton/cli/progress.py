"""What a starting deployment shows: a line per stage with its time, alive on a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn


class Stages:
    """Stages by name, in the order of their start. A context; nothing moves after it.

    On a terminal each has a spinner and counts its seconds; elsewhere each is a plain line when it
    is done.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TextColumn("[dim]{task.fields[seconds]}"),
            console=self._console,
            transient=False,
            disable=not self._console.is_terminal,
        )
        self._started: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in self._tasks.keys() - self._done():
            self._progress.update(self._tasks[name], total=1, seconds="stopped")
        self._progress.stop()

    def start(self, name: str, text: str) -> None:
        """A stage begins; one that is started again counts anew."""
        self._started[name] = time.monotonic()
        if name in self._tasks:
            self._progress.reset(self._tasks[name], total=None, description=text, seconds="")
        else:
            self._tasks[name] = self._progress.add_task(text, total=None, seconds="")

    def done(self, name: str, text: str) -> None:
        """A stage is over; `text` replaces what it said."""
        seconds = f"{time.monotonic() - self._started[name]:.1f} s"
        self._progress.update(
            self._tasks[name], total=1, completed=1, description=text, seconds=seconds
        )
        if not self._console.is_terminal:
            self._console.print(f"{text} ({seconds})")

    def fail(self, name: str, text: str) -> None:
        """A stage broke off, for now."""
        self._progress.update(self._tasks[name], description=f"[red]{text}[/]")
        if not self._console.is_terminal:
            self._console.print(text)

    def write(self, line: str) -> None:
        """A line of somebody's log, above the stages."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _done(self) -> set[str]:
        finished = {task.id for task in self._progress.tasks if task.finished}
        return {name for name, task in self._tasks.items() if task in finished}
