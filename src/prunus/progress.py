"""A bar on a terminal, for what takes longer than one likes to wait in silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Bar", "bar"]


def _nothing(*_: object) -> None:
    return


@dataclass(frozen=True)
class Bar:
    """advance: one step is done; line: print a text above the bar. Both do nothing where no bar is shown."""

    advance: Callable[[], None] = _nothing
    line: Callable[[str], None] = _nothing


@contextmanager
def bar(what: str, steps: int | None, done: int = 0, *, wanted: bool = True) -> Iterator[Bar]:
    """A bar of `steps`, of which so many are done, on stderr where that is a terminal and it is wanted."""
    if not (wanted and sys.stderr.isatty()):
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=steps, completed=done)
        yield Bar(lambda: shown.advance(task), lambda text: shown.console.print(text, highlight=False))
