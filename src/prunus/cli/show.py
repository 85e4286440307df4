"""Tables in the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from prunus.lab.job import Accuracy, Outcome
    from prunus.methods import Thinned

__all__ = ["amount", "percent", "say", "show_outcome", "table"]


def say(text: str) -> None:
    """Print a line as it is."""
    print(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table: the first column names the row, the others are figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, show_edge=False)
    for number, name in enumerate(head):
        drawn.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    shown = console()
    with shown.capture() as text:
        shown.print(drawn)
    print(text.get())  # rich itself would end the program where the reader of a pipe has gone


def console() -> Console:
    """Where people read. A pipe gets lines of at least 120 characters, and no colour."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(shutil.get_terminal_size((120, 24)).columns, 120)
    return Console(width=width, highlight=False)


def show_outcome(model: str, outcome: Outcome) -> None:
    """The widths, what was pinned, the proof, the costs, the accuracy."""
    from prunus.lab.job import left, widths
    from prunus.methods import Thinned

    pruned, accuracy = outcome.pruned, outcome.accuracy
    if isinstance(pruned, Thinned):
        show_thinned(model, pruned, accuracy)
        return
    table(("group", "width", "kept"), ((w.group, str(w.dense), str(w.kept)) for w in widths(pruned)))
    costs = (
        (kind, amount(old), amount(new), percent(100 * left(old, new)))
        for kind, old, new in (
            ("macs", pruned.before.macs, pruned.after.macs),
            ("params", pruned.before.params, pruned.after.params),
            ("bytes", pruned.before.bytes, pruned.after.bytes),
        )
    )
    table((model, "before", "after", "left"), costs)
    if pruned.latency is not None:
        say(str(pruned.latency))
    if accuracy.before is not None:
        stages = (accuracy.before, accuracy.cut, accuracy.finetuned)
        table(("accuracy", "before", "after the cut", "fine-tuned"), [("top-1", *map(percent, stages))])
    for dropped in pruned.plan.dropped:
        say(f"dropped: {dropped.name}")
    for pin in pruned.coupling.pinned:
        say(f"pinned: {pin.name}, {pin.width} channels: {pin.reason}")
    for op in pruned.coupling.unknown_ops:
        say(f"no rule: {op}")
    for name in pruned.coupling.unreached:
        say(f"not reached by the example, and as it was: {name}")
    for note in pruned.notes:
        say(f"note: {note}")
    say(str(pruned.proof) if pruned.proof is not None else "not proven")


def show_thinned(model: str, thin: Thinned, accuracy: Accuracy) -> None:
    """The nonzero entries of each weight, the bytes on the disk, the accuracy, and what zeros are worth."""
    rows = ((name, amount(was), amount(now), percent(100 * now / was)) for name, was, now in thin.rows())
    table((model, "weights", "nonzero", "left"), rows)
    sizes = thin.sizes()
    forms = (("dense", sizes.dense), ("deflated", sizes.deflated), ("CSR", sizes.csr), ("2:4", sizes.two_four))
    shown = ((name, amount(n), percent(100 * n / sizes.dense)) for name, n in forms if n is not None)
    table(("written to disk", "bytes", "of dense"), shown)
    if accuracy.before is not None:
        stages = (accuracy.before, accuracy.cut, accuracy.finetuned)
        table(("accuracy", "before", "masked", "fine-tuned"), [("top-1", *map(percent, stages))])
    for line in thin.facts():
        say(line)


def amount(number: int) -> str:
    """1234567 -> "1,234,567"."""
    return f"{number:,}"


def percent(number: float | None) -> str:
    """93.391 -> "93.39 %"; nothing for what was not measured."""
    return "" if number is None else f"{number:.2f} %"
