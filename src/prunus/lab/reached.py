"""Columns of a training towards a budget, as papers print them: α, when the budget was met, what was left then."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from prunus.lab.figures import number, sequence, table
from prunus.lab.runs import Entry, Run
from prunus.target import Target

__all__ = ["budget", "met", "of_training", "stage_of"]


def of_training(entry: Entry) -> dict[str, Any]:
    """minutes an epoch, over all trainings; epochs of the training that prepares the cut and of that after it; α; steps
    of the optimizer, in thousands, until the end of the first epoch in which the budget held; percent of the macs (or
    of what else is budgeted) left at the end of that training, and of the macs after the cut. Means over the seeds."""
    paces = [pace for run in entry.done if (pace := _pace(run)) is not None]
    steps = [found for run in entry.done if (found := met(run)) is not None]
    ends = [found for run in entry.done if (found := _end(run)) is not None]
    cuts = [100 * found for run in entry.done if (found := number(table(run.results.get("left")).get("macs")))]
    first = entry.first
    return {
        "minutes an epoch": fmean(paces) if paces else None,
        "prune epochs": _whole(stage_of(first, "sparsity").get("epochs")),
        "fine-tune epochs": _whole(stage_of(first, "finetune").get("epochs")),
        "α": alpha(first),
        "budget met, k steps": fmean(steps) if steps else None,
        "left at the end of training %": fmean(ends) if ends else None,
        "left after extraction %": fmean(cuts) if ends and cuts else None,
    }


def alpha(run: Run) -> float | None:
    """The weight of the budget's term in the loss: as the run noted it, or else as the recipe has it."""
    noted = number(table(stage_of(run, "sparsity").get("knobs")).get("alpha_mac"))
    if noted is not None:
        return noted
    given = (run.fields.get(f"{section}.options.alpha_mac") for section in ("sparsity", "prune"))
    return next((found for one in given if (found := number(one)) is not None), None)


def met(run: Run) -> float | None:
    """Thousands of steps until the end of the first epoch in which all budgeted shares held; None where that is not
    known, or never came."""
    limits = budget(run)
    stage = stage_of(run, "sparsity")
    steps, epochs = number(stage.get("steps")), number(stage.get("epochs"))
    if not limits or steps is None or not epochs or any(limit is None for limit in limits.values()):
        return None
    for line in run.lines("shares-sparsity.jsonl"):
        shares = {kind: number(line.get(kind)) for kind in limits}
        epoch = number(line.get("epoch"))
        if epoch and all(
            (share := shares[kind]) is not None and share <= (limit or 0) for kind, limit in limits.items()
        ):
            return epoch * steps / epochs / 1000
    return None


def budget(run: Run) -> dict[str, float | None]:
    """The shares that the sparsity training aimed at, by cost. An absolute budget is a share of what the dense network
    costs; None where the run does not say how much that is."""
    text = table(run.settings.get("sparsity")).get("target")
    try:
        found = Target.parse(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None:
        return {}
    limits = {kind: getattr(found, kind) for kind in ("macs", "params", "channels")}
    return {kind: _share(run, kind, limit) for kind, limit in limits.items() if limit is not None}


def stage_of(run: Run, name: str) -> Mapping[str, Any]:
    """What the run says of a stage."""
    stages = (table(stage) for stage in sequence(run.results.get("stages")))
    return next((stage for stage in stages if stage.get("name") == name), {})


def _share(run: Run, kind: str, limit: Any) -> float | None:
    if isinstance(limit, float):
        return limit
    dense = number(table(run.results.get("before")).get(kind))
    return limit / dense if dense else None


def _end(run: Run) -> float | None:
    """Percent of the macs that the last epoch of the sparsity training left, or of the first cost that is noted."""
    lines = run.lines("shares-sparsity.jsonl")
    shares = {kind: number(value) for kind, value in (lines[-1] if lines else {}).items() if kind != "epoch"}
    found = shares.get("macs", next(iter(shares.values()), None))
    return None if found is None else 100 * found


def _pace(run: Run) -> float | None:
    stages = [table(stage) for stage in sequence(run.results.get("stages"))]
    pairs = [(number(stage.get("training_seconds")), number(stage.get("epochs"))) for stage in stages]
    known = [(seconds, epochs) for seconds, epochs in pairs if seconds is not None and epochs]
    return sum(seconds for seconds, _ in known) / sum(epochs for _, epochs in known) / 60 if known else None


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)
