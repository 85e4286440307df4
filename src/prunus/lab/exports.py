"""What was exported from a run: a line of JSON each in its folder, and what a report says of the int8 ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prunus.errors import StorageError
from prunus.lab.environment import hardware, versions
from prunus.lab.figures import number, sequence, table
from prunus.lab.statistics import Spread

if TYPE_CHECKING:
    from prunus.exporting import Exported
    from prunus.lab.runs import Entry

__all__ = ["EXPORTS", "noted", "of_int8"]

EXPORTS = "exports.jsonl"


def noted(source: Path, done: Exported, data: str) -> Path | None:
    """Add a line about an export to the run folder that it came from; None where `source` is a file without one.

    data: what it was calibrated and measured on. Raises StorageError.
    """
    folder = source if source.is_dir() else source.parent
    if not (folder / "run.json").is_file():
        return None
    record = {**done.to_json(), "data": data, "versions": versions(), "hardware": hardware()}
    try:
        with (folder / EXPORTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise StorageError(
            f"{done.path} is written, and cannot be noted in {str(folder / EXPORTS)!r}: {error.strerror or error}"
        ) from error
    return folder / EXPORTS


def of_int8(entry: Entry) -> list[dict[str, Any]]:
    """A row for each format in which the runs were exported in int8; of several exports of one run the last counts.

    top-1 in percent over the seeds that were measured with labels; `agreement %`, with the float network, and `file
    bytes` as means.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in entry.done:
        mine = {line["format"]: line for line in run.lines(EXPORTS) if _is_int8(line)}
        for kind, line in mine.items():
            found.setdefault(kind, []).append(line)
    rows = []
    for kind, lines in found.items():
        told = [table(line["int8"]) for line in lines]
        after = [value for one in told if (value := _after(one)) is not None]
        spread = Spread.of(after, least=False) if after else None
        row: dict[str, Any] = {"stage": f"int8 ({kind})", "top-1": None if spread is None else spread.mean}
        names = ("n", "best", "sd", "low", "high")
        row |= {name: None if spread is None else getattr(spread, name) for name in names}
        row["agreement %"] = _mean([None if (a := number(one.get("agreement"))) is None else 100 * a for one in told])
        row["file bytes"] = _mean([number(line.get("bytes")) for line in lines])
        rows.append(row)
    return rows


def _is_int8(line: Mapping[str, Any]) -> bool:
    return bool(table(line.get("int8"))) and isinstance(line.get("format"), str)


def _after(told: Mapping[str, Any]) -> float | None:
    """top-1 of the int8 network."""
    both = sequence(told.get("top1"))
    return number(both[1]) if len(both) == 2 else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
