"""Run folders as `prunus run` leaves them, written in a moment, with the figures that a test wants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunus.lab.explain import toml

SETTINGS: dict[str, Any] = {
    "name": "a",
    "model": {"name": "resnet20"},
    "data": {"path": "digits"},
    "train": {"epochs": 3, "lr": 0.1},
    "prune": {"target": "macs=50%", "method": "magnitude"},
    "finetune": {"epochs": 2, "lr": 0.02},
}


def settings(name: str, seed: int, **sections: Any) -> dict[str, Any]:
    """The settings of a run, with whole sections replaced; None takes one away."""
    found = {**SETTINGS, **sections, "name": name, "seed": seed}
    return {key: value for key, value in found.items() if value is not None}


def made(
    root: Path,
    name: str,
    seed: int,
    *,
    before: float = 90.0,
    cut: float = 40.0,
    finetuned: float = 85.0,
    macs: int = 500,
    widths: Sequence[tuple[str, int, int]] = (("conv1", 8, 4), ("conv2", 16, 16)),
    kept: Mapping[str, tuple[int, Sequence[int]]] | None = None,
    **sections: Any,
) -> Path:
    """A run that is done, in root/NAME/seed-N; 1,000 macs and 200 params at full size. kept: width and kept channels of
    each group, for as much of a plan as a report reads."""
    folder = root / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    tests = {"before": before, "cut": cut, "finetuned": finetuned}
    results = {
        "recipe": name,
        "seed": seed,
        "selection": "validation",
        "accuracy": tests,
        "test": {key: {"top1": top1, "top5": 99.0, "loss": 1.5, "n": 10} for key, top1 in tests.items()},
        "before": {"macs": 1000, "params": 200},
        "after": {"macs": macs, "params": 80},
        "left": {"macs": macs / 1000, "params": 0.4},
        "verified": True,
        "widths": [{"group": group, "dense": dense, "kept": kept} for group, dense, kept in widths],
        "stages": [
            {"name": "baseline", "epochs": 3, "training_seconds": 60.0},
            {"name": "prune"},
            {"name": "finetune", "epochs": 2, "training_seconds": 30.0},
        ],
        "settings": settings(name, seed, **sections),
    }
    content = {"format": "prunus-run-1", "description": {"model": "resnet20"}, "results": results}
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    if kept is not None:
        groups = [{"name": group, "width": width, "kept": list(ids)} for group, (width, ids) in kept.items()]
        (folder / "plan.json").write_text(json.dumps({"groups": groups}), encoding="utf-8")
    for stage, epochs in (("baseline", 3), ("finetune", 2)):
        lines = [{"epoch": e, "loss": 2.0 / e, "metrics": {"top1": 30.0 + e}} for e in range(1, epochs + 1)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"metrics-{stage}.jsonl").write_text(text, encoding="utf-8")
    return folder


def begun(root: Path, name: str, seed: int, *, error: str | None = None, **sections: Any) -> Path:
    """A run that was stopped, or that failed with an error at its fine-tuning."""
    folder = root / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    state = {"status": "running"} if error is None else {"status": "failed", "stage": "finetune", "error": error}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "recipe.toml").write_text(toml(settings(name, seed, **sections)), encoding="utf-8")
    return folder
