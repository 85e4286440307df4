"""The figures of a run by name, read from what its run.json holds. Nothing in a file is trusted to be a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prunus.lab.statistics import Spread

__all__ = ["MEASURED", "figures", "good", "last", "least", "number", "sequence", "spreads", "table"]

MEASURED = {"before": "dense", "sparse": "after sparsity training", "cut": "cut", "finetuned": "fine-tuned"}
"""The networks that a run measures, in order, and what people call them."""

_LEAST = ("loss", "macs", "params", "macs left", "params left", "minutes", "drop")


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """before, sparse, cut, finetuned: top-1 in percent, or what a task calls good. `cut top5`, `finetuned loss` and so
    on: all other metrics. drop: how much of the first the last has lost, in points. macs, params: of the last network;
    `macs left`, `params left`: of the dense ones, in percent. minutes: of training, without validation.
    validation: of the last network, on the validation part. `macs left thop` and so on: by other counting rules."""
    accuracy, test = table(results.get("accuracy")), table(results.get("test"))
    if "trained" in accuracy:  # what `prunus train` leaves is the dense network of all that follows
        accuracy = {"before": accuracy["trained"]}
    found = {name: number(accuracy.get(name)) for name in MEASURED}
    if test and not test.keys() & MEASURED.keys():  # of the last network alone
        test = {last(accuracy) or "before": test}
    for stage in MEASURED:
        for name, value in table(test.get(stage)).items():
            if name not in ("top1", "goodness", "n"):
                found[f"{stage} {name}"] = number(value)
    end = next((found[name] for name in ("finetuned", "cut", "sparse") if found[name] is not None), None)
    if found["before"] is not None and end is not None:
        found["drop"] = found["before"] - end
    before, after = table(results.get("before")), table(results.get("after"))
    for kind in ("macs", "params"):
        dense, now = number(before.get(kind)), number(after.get(kind))
        found[kind] = dense if now is None else now
        if dense and now is not None:
            found[f"{kind} left"] = 100 * now / dense
    for name, counts in table(results.get("conventions")).items():
        dense, now = (number(table(counts).get(when)) for when in ("before", "after"))
        if dense and now is not None:
            found[f"macs left {name}"] = 100 * now / dense
    for value in table(results.get("validation")).values():
        found["validation"] = good(value)
    seconds = [number(table(stage).get("training_seconds")) for stage in sequence(results.get("stages"))]
    if any(value is not None for value in seconds):
        found["minutes"] = sum(value for value in seconds if value is not None) / 60
    return {name: value for name, value in found.items() if value is not None}


def good(metrics: Any) -> float | None:
    """How good metrics are that `plain_metrics` wrote, see `engine.task.goodness`."""
    parts = [table(metrics).get("goodness"), table(metrics).get("top1"), metrics]
    return next((found for part in parts if (found := number(part)) is not None), None)


def last(names: Mapping[str, Any]) -> str | None:
    """The last network that was measured."""
    return next((name for name in reversed(MEASURED) if name in names), None)


def least(name: str) -> bool:
    """Whether the smallest value of a figure is the best."""
    return name in _LEAST or name.endswith(" loss") or name.startswith("macs left ")


def spreads(rows: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Every figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: Spread.of([row[name] for row in rows if name in row], least=least(name)) for name in names}


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def table(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """A JSON list, or an empty one."""
    return value if isinstance(value, list) else []
