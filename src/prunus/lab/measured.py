"""What was measured of a run afterwards and lies in its folder: files that `--json` of a verb wrote there.

latency.json       prunus bench --from RUN --json
sensitivity.json   prunus sensitivity --from RUN --data … --json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunus.lab.figures import number, sequence, table
from prunus.lab.plots import Line, Plots
from prunus.lab.runs import Entry

__all__ = ["LATENCY", "SENSITIVITY", "latency", "sensitivity"]

LATENCY, SENSITIVITY = "latency.json", "sensitivity.json"


def latency(entry: Entry) -> tuple[str, float | None, float] | None:
    """What was timed (runtime, batch, device), and the milliseconds of the dense and of the cut network; of the first
    run that has them, and of the first row of its file."""
    for run in entry.done:
        content = _read(run.folder / LATENCY)
        for row in map(table, sequence(content.get("rows"))):
            dense, pruned = (number(table(row.get(name)).get("median")) for name in ("dense", "pruned"))
            small = dense if pruned is None else pruned
            if small is not None:
                what = f"{row.get('runtime')}, batch {row.get('batch')}, {content.get('device')}"
                return what, None if dense is None else 1e3 * dense, 1e3 * small
    return None


def sensitivity(entry: Entry) -> Plots | None:
    """A small plot for each group, of the first run that has curves."""
    for run in entry.done:
        content = _read(run.folder / SENSITIVITY)
        lines = [_line(table(curve)) for curve in sequence(content.get("curves"))]
        whole = [line for line in lines if line is not None]
        if whole:
            across, up = "removed channels of the group in percent", "measure"
            return Plots(tuple(whole), across, up, number(content.get("dense")))
    return None


def _line(curve: Mapping[str, Any]) -> Line | None:
    widths = [number(one) for one in sequence(curve.get("widths"))]
    values = [number(one) for one in sequence(curve.get("values"))]
    if not widths or not widths[0] or len(widths) != len(values):
        return None
    dense = widths[0]
    points = (
        (100 * (1 - w / dense), v) for w, v in zip(widths, values, strict=True) if w is not None and v is not None
    )
    return Line(f"{curve.get('group')} ({dense:.0f})", tuple(sorted((x, y) for x, y in points if 0 <= x <= 100)))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return table(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
