"""From run folders to a table or a page that people would publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.errors import InputError, StorageError, UnknownName
from prunus.lab.columns import filled, of_runs, of_stages
from prunus.lab.formats import as_csv, as_markdown, as_tex
from prunus.lab.runs import Entry, entries, find, known, where

__all__ = ["FORMATS", "Report", "report", "rows_of"]

Rows = Sequence[dict[str, Any]]

FORMATS: dict[str, Callable[[Sequence[str], Rows], str]] = {".md": as_markdown, ".csv": as_csv, ".tex": as_tex}
"""The tables, by the end of the file's name; a page is .html."""


@dataclass(frozen=True)
class Report:
    """What was written, and its table: plain values by column."""

    file: Path | None
    head: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    entries: tuple[Entry, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": None if self.file is None else str(self.file), "columns": list(self.head), "rows": self.rows}


def report(
    runs: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    *,
    stages: bool = False,
    columns: Sequence[str] = (),
    conditions: Sequence[str] = (),
    title: str = "Runs",
) -> Report:
    """A row for each run and its seeds, or with `stages` for each measured network of it.

    runs: run folders, or folders of them. out: page.html, table.md, table.csv or table.tex; None writes nothing.
    columns: further recipe fields or figures, such as finetune.lr. conditions: as in `prunus runs --where`. Raises
    InputError where no run is left or the file's kind is not known, UnknownName for a column that no run has,
    StorageError.
    """
    file = None if out is None else Path(out)
    if file is not None and file.suffix not in (*FORMATS, ".html"):
        raise UnknownName.of("kind of report", file.suffix or file.name, (*FORMATS, ".html"))
    found = where(find([runs] if isinstance(runs, str | Path) else runs), conditions)
    if not found:
        raise InputError("no run meets the conditions")
    for name in columns:
        known(name, found)
    gathered = tuple(entries(found))
    rows = rows_of(gathered, stages=stages, columns=columns)
    head = tuple(filled(rows, ("run", "status", *columns)))
    if file is not None:
        _write(file, _text(file.suffix, gathered, head, rows, title))
    return Report(file, head, tuple({name: row.get(name) for name in head} for row in rows), gathered)


def rows_of(gathered: Sequence[Entry], *, stages: bool, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, with every column."""
    return of_stages(gathered, columns) if stages else of_runs(gathered, columns)


def _text(suffix: str, gathered: Sequence[Entry], head: Sequence[str], rows: Rows, title: str) -> str:
    if suffix == ".html":
        from prunus.lab.gallery import page_of
        from prunus.lab.page import render

        return render(page_of(gathered, head, rows, title))
    return FORMATS[suffix](head, rows)


def _write(file: Path, text: str) -> None:
    if not file.parent.is_dir():
        raise InputError(f"there is no folder {str(file.parent)!r} for the report")
    try:
        file.write_text(text, encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise StorageError(f"cannot write {str(file)!r}: {error.strerror or error}") from error
