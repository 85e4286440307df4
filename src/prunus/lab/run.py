"""Carry out a recipe, stage by stage: what is done already is not done again."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunus.engine.config import Fit
from prunus.engine.processes import One, join
from prunus.errors import InputError, UnknownName
from prunus.lab import chain, folder
from prunus.lab.environment import without_places
from prunus.lab.figures import good
from prunus.lab.histograms import HISTOGRAMS
from prunus.lab.journal import Journal, reason
from prunus.lab.order import STAGES, Step, steps_of
from prunus.lab.recipe import PUBLISHED, Recipe, load, only_fit, plain
from prunus.lab.repeat import Failed, all_failed, goes_on, repeated, summarised, write_summary
from prunus.lab.shares import SHARES
from prunus.lab.stages import Busy, Place, claimed, clear, conditions, finish, forget, in_turn, mark, state

if TYPE_CHECKING:
    from torch import nn

    from prunus.engine.checkpoint import Checkpoints
    from prunus.engine.history import History
    from prunus.engine.runtime import Runtime

__all__ = ["Chain", "Done", "Finished", "run", "train"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """What became of one stage. why: of a stage that was skipped, or done again."""

    name: str
    status: Literal["ran", "reused", "skipped"]
    why: str = ""
    seconds: float = 0.0
    folder: str | None = None


@dataclass(frozen=True)
class Chain:
    """The stages of one seed, its run folder (see `folder`), and what its run.json holds."""

    seed: int
    folder: Path
    stages: tuple[Done, ...]
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A recipe that was carried out: a chain for each seed, and the seeds that failed.

    summary: for each figure (see `prunus.lab.figures`) n, best, mean, sample standard deviation and the ends of the
    95 % interval of the mean over the seeds; the last three are None for one seed.
    """

    recipe: Recipe
    folder: Path
    chains: tuple[Chain, ...]
    summary: Mapping[str, Mapping[str, float | None]]
    seeds: tuple[int, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def results(self) -> Mapping[str, Any]:
        """Those of the first seed that did not fail."""
        return self.chains[0].results

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "recipe": self.recipe.name,
            "selection": self.recipe.selection,
            "folder": str(self.folder),
            "seeds": list(self.seeds),
            "failed": [dict(vars(one)) for one in self.failed],
            "summary": self.summary,
            "runs": [
                {
                    "seed": one.seed,
                    "folder": str(one.folder),
                    "stages": [{k: v for k, v in vars(done).items() if k != "folder"} for done in one.stages],
                    **{key: value for key, value in one.results.items() if key not in ("seed", "stages", "settings")},
                }
                for one in self.chains
            ],
        }


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    smoke: bool = False,
    out: str | Path = "runs",
    skip: Iterable[str] = (),
    from_stage: str | None = None,
    repeat: int | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> Finished:
    """Carry out a recipe below the folder `out`: its stages, and the run itself in `out`/NAME.

    overrides: "train.epochs=10". smoke: the small variant. skip: stages that are left out. from_stage: it and what
    follows is done again. A stage that was finished with the same settings, in this recipe or another, is reused; one
    that was interrupted goes on. repeat: so many seeds, from the recipe's on, each in `out`/NAME/seed-N, and a summary.
    say: told what happens, by default on stderr.

    Of several seeds one may fail: it is told of, and the others go on. Raises InputError for a recipe that cannot work,
    StorageError, and what the work raises: ProofError, errors of training; PrunusError where every seed failed.
    """
    settings = load(recipe, overrides, smoke=smoke)
    left_out = frozenset(known_stage(name) for name in skip)
    again = None if from_stage is None else known_stage(from_stage)
    root = folder.ready(str(out))
    processes = join(settings.runtime)
    tell = teller(settings, processes, say)
    supply = cache(lambda: chain.data_of(settings.data))
    seeds = repeated(settings, repeat)
    several = len(seeds) > 1 or repeat is not None
    chains: list[Chain] = []
    failed: list[Failed] = []

    def finished() -> Finished:
        summary = summarised([one.results for one in chains])
        found = Finished(settings, root / settings.name, tuple(chains), summary, seeds, tuple(failed))
        if several and processes.rank == 0:
            write_summary(found.folder, found.as_dict())
        return found

    finished()  # which says what is to come
    for number in seeds:
        if several:
            tell(f"seed {number}")
        runtime = replace(settings.runtime, seed=number)
        bench = chain.Bench(settings, runtime, progress, supply, measures="evaluate" not in left_out)
        place = root / settings.name / f"seed-{number}" if several else root / settings.name
        journal = Journal(place, writes=processes.rank == 0)
        try:
            chains.append(one_chain(bench, root, place, left_out, again, processes, tell, journal))
        except Exception as error:
            journal.failed(error)
            # Processes that train together can be out of step after an error.
            if not several or processes.world > 1 or not goes_on(error, len(chains), len(failed)):
                raise
            failed.append(Failed(number, journal.stage, reason(error)))
            tell(f"{failed[-1]}; the same command tries it again")
        finished()
    if not chains:
        raise all_failed(failed)
    return finished()


def train(
    model: nn.Module,
    data: Any,
    settings: Fit | Recipe | str | Path | None = None,
    *,
    hooks: Sequence[Any] = (),
    runtime: Runtime | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place: a baseline, or with `hooks` of `method.attach` what is to be pruned.

    settings: a `Fit`, or a recipe whose [train] and [runtime] are taken. data: a `Data` or batches, see `fit`.
    """
    from prunus.engine.loop import fit

    if settings is not None and not isinstance(settings, Fit):
        recipe = load(settings)
        if recipe.train is None:
            raise InputError(f"the recipe {recipe.name} has no [train]")
        settings, runtime = recipe.train, runtime or replace(recipe.runtime, seed=recipe.all_seeds[0])
    config = None if settings is None else only_fit(settings)
    return fit(model, data, config, hooks=hooks, runtime=runtime, checkpoints=checkpoints, progress=progress)


def known_stage(name: str) -> str:
    """The name, if there is such a stage. Raises UnknownName."""
    if name not in STAGES:
        raise UnknownName.of("stage", name, STAGES)
    return name


def teller(recipe: Recipe, processes: One, say: Say | None) -> Say:
    """Tells people, in the first process, and labels what was chosen on the test part."""
    label = f"  [selection: {PUBLISHED}]" if recipe.data.published else ""
    out = say or (lambda line: print(line, file=sys.stderr))

    def tell(line: str) -> None:
        if processes.rank == 0:
            out(line + label)

    return tell


def one_chain(
    bench: chain.Bench,
    root: Path,
    place: Path,
    skip: frozenset[str],
    again: str | None,
    processes: One,
    tell: Say,
    journal: Journal,
    *,
    patient: bool = False,
) -> Chain:
    """All stages of one seed, and the run folder. patient: wait for a stage that another process is at."""
    steps = steps_of(bench, root, skip)
    settings = without_places(of_one_seed(plain(bench.recipe), bench.runtime.seed))
    keys = {step.name: step.place.key for step in steps if step.place is not None}
    whole = Place("run", Place.below(root, "run", [keys, settings]).key, place)
    found, wrong = state(whole)
    processes.wait()  # all have seen the same, before the first writes
    if again is not None or found != "done":
        if found == "damaged":  # as by a run of other settings, whose files must not lie beside those of this one
            chain.start(bench)  # what cannot even begin replaces nothing
            if processes.rank == 0:
                with claimed(whole):
                    forget(whole)
            processes.wait()
        journal.begin(settings)

    def told(line: str) -> None:
        tell(line)
        journal.line(line)

    done: list[Done] = []
    redo = False
    for step in steps:
        redo, journal.stage = redo or step.name == again, step.name
        done.append(in_turn(partial(carried_out, step, redo, processes, told), patient))
    journal.stage = "run"
    if found == "done" and again is None:
        tell(f"run: up to date in {place}")
    else:
        if found == "damaged":
            other = wrong == "done.json has another key"
            told("run: replaces one of other settings" if other else f"run: {wrong}; written again")
        if processes.rank == 0:
            with claimed(whole):
                forget(whole)
                assembled(bench, steps, settings, whole, journal)
        processes.wait()
        told(f"run: written to {place}")
    journal.done()
    content = json.loads((place / "run.json").read_text(encoding="utf-8"))
    return Chain(bench.runtime.seed, place, tuple(done), content["results"])


def of_one_seed(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The settings of the chain of one seed: the same whether it was run alone or with others."""
    return {**{key: value for key, value in settings.items() if key != "seeds"}, "seed": seed}


def carried_out(step: Step, again: bool, processes: One, tell: Say) -> Done:
    """Do one stage, unless it is done already."""
    place, name = step.place, step.name
    if place is None:
        tell(f"{name}: skipped, {step.why}")
        return Done(name, "skipped", step.why)
    found, wrong = state(place)
    processes.wait()
    if found == "done" and not again:
        seconds = mark(place)["seconds"]
        tell(f"{name}: reused, done before in {seconds:.0f} s ({place.folder.name})")
        return Done(name, "reused", "", seconds, str(place.folder))
    why = "asked for" if again and found != "absent" else f"damaged: {wrong}" if wrong else ""
    with claimed(place) if processes.rank == 0 else nullcontext():
        if found != "done" and processes.world == 1 and state(place)[0] == "done":
            raise Busy(f"another run has just ended {name} in {str(place.folder)!r}; run again to reuse it")
        if processes.rank == 0 and (again or found == "damaged"):
            clear(place)
        processes.wait()
        resumed = found == "begun" and not again
        tell(f"{name}: " + ("goes on, " if resumed else f"again ({why}), " if why else "") + step.what)
        begin = time.perf_counter()
        step.work()
        if processes.rank == 0:
            finish(place, conditions(begin))
        processes.wait()
    return Done(name, "ran", why, mark(place)["seconds"], str(place.folder))


def assembled(bench: chain.Bench, steps: Sequence[Step], settings: Any, place: Place, journal: Journal) -> None:
    """Write the run folder: the last network and those before it, the results of all stages, their metrics."""
    begin = time.perf_counter()
    at = {step.name: step.place for step in steps if step.place is not None}
    networks = [name for name in at if name != "evaluate"]
    if not networks:
        raise InputError(
            "no stage is left: the recipe has no [train], [sparsity], [prune] or [finetune], or all skipped"
        )
    results: dict[str, Any] = {
        "recipe": bench.recipe.name,
        "seed": bench.runtime.seed,
        "selection": bench.recipe.selection,
        **accuracies(at.get("evaluate")),
    }
    if "prune" in at:
        results |= _run_of(at["prune"])["results"]
    stages, written = [], ["run.json", "model.safetensors"]
    for name, one in at.items():
        told = {key: value for key, value in mark(one).items() if key not in ("format", "stage", "files")}
        own = _run_of(one)["results"] if name in ("baseline", "sparsity", "finetune") else {}
        stages.append({"name": name, **told, **own})
        for kept in ("metrics.jsonl", SHARES, HISTOGRAMS):
            if (one.folder / kept).exists():
                written.append(kept.replace(".", f"-{name}."))
                shutil.copyfile(one.folder / kept, place.folder / written[-1])
    skipped = {step.name: step.why for step in steps if step.place is None}
    results |= {"stages": stages, "skipped": skipped, "settings": settings}
    folder.adopt(place.folder, at[networks[-1]].folder, results)
    written += journal.keep((name, at[name].folder / "model.safetensors") for name in networks[:-1])
    written += journal.describe(settings)
    finish(place, conditions(begin), [*written, *(["plan.json"] if (place.folder / "plan.json").exists() else [])])


def accuracies(place: Place | None) -> dict[str, Any]:
    """Before, after the cut and at the end, top-1 in percent or what the task calls good; and all metrics."""
    found = {} if place is None else json.loads((place.folder / "test.json").read_text(encoding="utf-8"))
    test = found.get("test", {})
    top = {name: good(metrics) for name, metrics in test.items()}
    before = top.get("before", top.get("sparse"))
    accuracy = {"before": before, "cut": top.get("cut"), "finetuned": top.get("finetuned")}
    if "sparse" in top:
        accuracy["sparse"] = top["sparse"]
    return {"accuracy": accuracy, **found}


def _run_of(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.folder / "run.json").read_text(encoding="utf-8"))
    return found
