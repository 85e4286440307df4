"""The rows and columns of a report: what each run, or each stage of it, is said to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from prunus.lab.exports import of_int8
from prunus.lab.figures import MEASURED, last, least, number, sequence, table
from prunus.lab.reached import of_training
from prunus.lab.runs import Entry, Run, shown
from prunus.lab.statistics import Spread

__all__ = ["actual", "asked", "ended", "filled", "of_runs", "of_stages", "spread", "status"]

STAGE_OF = {"before": "baseline", "sparse": "sparsity", "cut": "prune", "finetuned": "finetune"}
"""The stage that made each measured network."""

KINDS = {"macs": "macs", "params": "params", "weights": "nonzero", "bytes": "bytes"}
"""What a target speaks of, and where a run has how much of it is left."""


def of_runs(entries: Sequence[Entry], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each entry: accuracies in percent as means over the seeds; n, best, sd, low and high of the last of
    them; costs of the last network; minutes of training, as a mean; see `of_training` for the rest."""
    rows = []
    for entry in entries:
        end = ended(entry)
        final = None if end is None else spread(entry, end)
        row: dict[str, Any] = {"run": entry.name, "status": status(entry)}
        row["selection"] = entry.first.results.get("selection")
        row |= {MEASURED[name]: mean(entry, name) for name in MEASURED}
        row |= _spread(final)
        row |= {"drop": mean(entry, "drop"), "top-5": None if end is None else mean(entry, f"{end} top5")}
        row |= _costs(entry, "finetuned")
        row |= {"asked": asked(entry.first), "actual": actual(entry)}
        row |= {"epochs": "+".join(map(str, _epochs(entry.first).values())) or None, "minutes": mean(entry, "minutes")}
        row |= {"validation": mean(entry, "validation"), **of_training(entry)}
        rows.append(row | _more(entry, columns))
    return rows


def of_stages(entries: Sequence[Entry], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each measured network of each entry, and for its int8 exports; one row for an entry without any."""
    rows = []
    for entry in entries:
        names = [name for name in MEASURED if entry.by_seed(name)]
        for name in names or [""]:
            row: dict[str, Any] = {"run": entry.name, "stage": MEASURED.get(name), "status": status(entry)}
            found = spread(entry, name) if name else None
            row |= {"top-1": None if found is None else found.mean, **_spread(found)}
            row |= {"top-5": mean(entry, f"{name} top5"), "loss": mean(entry, f"{name} loss")}
            row |= _costs(entry, name) if name else {}
            row |= {"epochs": _epochs(entry.first).get(STAGE_OF.get(name, "")), "minutes": _minutes(entry, name)}
            row["minutes an epoch"] = row["minutes"] / row["epochs"] if row["minutes"] and row["epochs"] else None
            rows.append(row | _more(entry, columns))
        more = {"run": entry.name, "status": status(entry), **_more(entry, columns)}
        rows += [{**more, **(_costs(entry, names[-1]) if names else {}), **row} for row in of_int8(entry)]
    return rows


def filled(rows: Sequence[dict[str, Any]], kept: Iterable[str] = ("run", "status")) -> list[str]:
    """The columns that some row fills, in their order, and those in `kept` in any case."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name in kept or any(row.get(name) is not None for row in rows)]


def ended(entry: Entry) -> str | None:
    """The last network that was measured in any seed."""
    return last({name: True for name in MEASURED if entry.by_seed(name)})


def spread(entry: Entry, name: str) -> Spread | None:
    """A figure over the seeds that have it."""
    values = list(entry.by_seed(name).values())
    return Spread.of(values, least=least(name)) if values else None


def mean(entry: Entry, name: str) -> float | None:
    """The mean of a figure over the seeds that have it."""
    values = list(entry.by_seed(name).values())
    return fmean(values) if values else None


def status(entry: Entry) -> str:
    """`done`, or how many are and what became of the others."""
    if len(entry.done) == len(entry.runs):
        return "done"
    others = [
        run.status if run.seed is None else f"seed {run.seed} {run.status}"
        for run in entry.runs
        if run.status != "done"
    ]
    if len(entry.runs) == 1:
        return entry.runs[0].status
    return f"{len(entry.done)} of {len(entry.runs)} done; " + ", ".join(others)


def asked(run: Run) -> str | None:
    """The budget, in the recipe's words."""
    cut, sparsity = table(run.settings.get("prune")), table(run.settings.get("sparsity"))
    for given in (cut.get("target"), sparsity.get("target"), run.results.get("target")):
        if given:
            return str(given)
    return next((f"given {name}" for name in ("rates", "widths", "drop") if cut.get(name)), None)


def actual(entry: Entry) -> str | None:
    """What is left of what was asked for, in percent; of the macs where it was no budget."""
    words = re.findall(r"[a-z]+(?==)", asked(entry.first) or "")
    found = []
    for word in dict.fromkeys(word for word in words if word in (*KINDS, "channels")) or ["macs"]:
        shares = [share for run in entry.done if (share := _left(run, word)) is not None]
        if shares:
            found.append(f"{word} {100 * fmean(shares):.2f} %")
    return ", ".join(found) or None


def _left(run: Run, kind: str) -> float | None:
    if kind != "channels":
        return number(table(run.results.get("left")).get(KINDS[kind]))
    rows = [table(row) for row in sequence(run.results.get("widths"))]
    dense, kept = (sum(number(row.get(name)) or 0 for row in rows) for name in ("dense", "kept"))
    return kept / dense if dense else None


def _spread(found: Spread | None) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("n", "best", "sd", "low", "high"))
    return {"n": found.n, "best": found.best, "sd": found.sd, "low": found.low, "high": found.high}


def _costs(entry: Entry, name: str) -> dict[str, Any]:
    """macs and params of a network, and how much of the dense one's is gone, in percent."""
    found: dict[str, Any] = {}
    for kind in ("macs", "params"):
        dense = [number(table(run.results.get("before")).get(kind)) for run in entry.done]
        after = [number(table(run.results.get("after")).get(kind)) for run in entry.done]
        small = name in ("cut", "finetuned") and any(value is not None for value in after)
        values = [value for value in (after if small else dense) if value is not None]
        shares = [1 - a / d for a, d in zip(after, dense, strict=True) if small and a is not None and d]
        found[kind] = round(fmean(values)) if values else None
        found[f"{kind} removed %"] = 100 * fmean(shares) if shares else None
    return found


def _epochs(run: Run) -> dict[str, int]:
    """The epochs that were run, by stage."""
    stages = [table(stage) for stage in sequence(run.results.get("stages"))]
    return {str(s.get("name")): int(e) for s in stages if (e := number(s.get("epochs"))) is not None}


def _minutes(entry: Entry, name: str) -> float | None:
    found = []
    for run in entry.done:
        for stage in map(table, sequence(run.results.get("stages"))):
            seconds = number(stage.get("training_seconds"))
            if stage.get("name") == STAGE_OF.get(name) and seconds is not None:
                found.append(seconds / 60)
    return fmean(found) if found else None


def _more(entry: Entry, columns: Sequence[str]) -> dict[str, Any]:
    """Settings of the first run, and figures as means."""
    found: dict[str, Any] = {}
    for name in columns:
        value = shown(entry.first, name)
        figure = name not in entry.first.fields and name not in ("name", "seed", "status")
        values = [v for run in entry.done if figure and isinstance(v := shown(run, name), float)]
        found[name] = fmean(values) if values else value
    return found
