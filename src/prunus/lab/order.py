"""The stages of a recipe in order: what each depends on, and why one is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunus.engine.processes import join
from prunus.lab import chain
from prunus.lab.identity import arithmetic, by_content, of_data, of_model
from prunus.lab.stages import Place, differing, digest

__all__ = ["STAGES", "Step", "steps_of"]

STAGES = ("baseline", "sparsity", "prune", "finetune", "evaluate")


@dataclass(frozen=True)
class Step:
    """One stage: where it works, what it does in words, and the work. place: None where it is skipped, and why."""

    name: str
    what: str = ""
    place: Place | None = None
    work: Callable[[], None] = lambda: None
    why: str = ""


def steps_of(bench: chain.Bench, root: Path, skip: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """The stages of one seed below `root`, in order. Reads the data's files for their digest, not the data."""
    recipe, seed = bench.recipe, bench.runtime.seed
    network = of_model(recipe.model)
    shared = {
        "data": of_data(recipe.data),
        "task": by_content(recipe.task),
        "arithmetic": arithmetic(recipe.runtime),
        "seed": seed,
    }
    weights = recipe.model.weights is not None
    key = digest([network] if weights else [network, seed])
    now: Path | None = None
    dense, dense_key = now, key
    steps: list[Step] = []

    def left_out(name: str, section: object, title: str) -> str:
        if name in skip:
            return "asked for"
        if name == "baseline" and weights:
            return "the recipe brings weights"
        return "" if section is not None else f"the recipe has no [{title}]"

    def add(name: str, what: str, content: Any, work: Callable[[Path], None]) -> None:
        nonlocal key, now
        place = Place.below(root, name, {"upstream": key, **shared, **content})
        steps.append(Step(name, what, place, partial(work, place.folder)))
        key, now = place.key, place.folder

    def before(stage: Callable[..., None], **more: Any) -> Callable[[Path], None]:
        source = now
        return lambda out: stage(bench, source, out, **more)

    train, sparse, cut, tune = recipe.train, recipe.sparsity, recipe.prune, recipe.finetune
    measured: dict[str, Path | None] = {}
    if why := left_out("baseline", train, "train"):
        steps.append(Step("baseline", why=why))
    else:
        assert train is not None
        add("baseline", f"training {train.epochs} epochs", {"fit": differing(train)}, before(chain.baseline))
        dense, dense_key = now, key
    if weights or now is not None or sparse is None or "sparsity" in skip:
        measured["before"] = now
    if why := left_out("sparsity", sparse, "sparsity"):
        steps.append(Step("sparsity", why=why))
    else:
        assert sparse is not None
        content = {"fit": differing(sparse), "method": sparse.method, "pin": [] if cut is None else list(cut.pin)}
        add("sparsity", f"training {sparse.epochs} epochs with {sparse.method}", content, before(chain.sparsity))
        measured["sparse"] = now
        if dense is None and not weights:
            dense, dense_key = now, key
    if why := left_out("prune", cut, "prune"):
        steps.append(Step("prune", why=why))
    else:
        assert cut is not None
        content = {"cut": differing(replace(cut, target=cut.target and str(cut.target))), "method": cut.method}
        add("prune", f"cutting to {_goal(cut)} by {cut.method}", content, before(chain.cut))
        measured["cut"] = now
    if why := left_out("finetune", tune, "finetune"):
        steps.append(Step("finetune", why=why))
    else:
        assert tune is not None
        content = {"fit": differing(tune), "teacher": dense_key if tune.teacher else None}
        add("finetune", f"training {tune.epochs} epochs", content, before(chain.finetune, dense=dense))
        measured["finetuned"] = now
    if why := left_out("evaluate", True, ""):
        steps.append(Step("evaluate", why=why))
    else:
        names = {name: None if place is None else place.name for name, place in measured.items()}
        more = {"validation": True} if recipe.data.validation or ".py:" in recipe.data.path else {}
        content = {"networks": names, **more}
        add("evaluate", "the test part", content, lambda out: _evaluate(bench, measured, out))
    return tuple(steps)


def _goal(cut: Any) -> str:
    """What the cut aims at, in words."""
    if cut.target is not None:
        return str(cut.target)
    return "given rates" if cut.rates is not None else "given widths" if cut.widths is not None else "what is left"


def _evaluate(bench: chain.Bench, networks: dict[str, Path | None], out: Path) -> None:
    """Read the test part, once for each network, and write what was found; beside it the validation of the last one,
    by which a search chooses."""
    found = {"test": chain.measured(bench, networks), "selection": bench.recipe.selection}
    if bench.data.validation is not None:
        found["validation"] = chain.measured(bench, dict(list(networks.items())[-1:]), "validation")
    if bench.recipe.prune is None:
        found["before"] = chain.costs(bench, next(iter(networks.values())))
    if join(bench.runtime).rank == 0:
        (out / "test.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
