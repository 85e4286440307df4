"""What each stage of a recipe does: from the folder before it to its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunus.engine.checkpoint import Checkpoints
from prunus.engine.config import Fit
from prunus.engine.data import Data, Split, Stream, load
from prunus.engine.loop import evaluate, fit
from prunus.engine.processes import join
from prunus.engine.runtime import Runtime
from prunus.engine.split import with_validation
from prunus.engine.task import goodness, plain_metrics
from prunus.engine.watch import JsonLines, Lines, Trackers, Watcher
from prunus.errors import InputError
from prunus.lab import folder, histograms, job
from prunus.lab.portion import limited
from prunus.lab.recipe import PUBLISHED, Recipe, Source, Sparsity, only_fit
from prunus.lab.shares import SHARES, Shares
from prunus.lab.stages import CHECKPOINTS
from prunus.lab.supplies import NOTHING, supplies, wants_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.task import Task
    from prunus.plan import Plan

__all__ = ["Bench", "baseline", "costs", "cut", "data_of", "finetune", "hooks_of", "measured", "sparsity", "start"]


@dataclass(frozen=True)
class Published:
    """Metrics of the test part that choose an epoch, with the label that they bear wherever they are written."""

    goodness: float
    metrics: Any
    selection: str = PUBLISHED

    def __str__(self) -> str:
        return f"{self.metrics} [selection: {self.selection}]"


@dataclass(frozen=True)
class Bench:
    """What every stage of one chain works with. The data is read when the first stage asks for it."""

    recipe: Recipe
    runtime: Runtime
    progress: bool
    supply: Callable[[], Data]
    judges: tuple[Watcher, ...] = ()
    """Told of every epoch of the last training of the recipe."""
    measures: bool = True
    """Whether the networks will be measured on the test part."""

    @property
    def data(self) -> Data:
        return self.supply()

    @property
    def task(self) -> Task | None:
        """None for classification, whose label smoothing `fit` sets."""
        from prunus.engine.task import task_of

        return None if self.recipe.task == "classification" else task_of(self.recipe.task)

    @cached_property
    def example(self) -> Tensor:
        """One input, to trace the network with."""
        return self.data.example()

    @property
    def description(self) -> folder.Description:
        """The network at full size."""
        model, data, example = self.recipe.model, self.data, self.example
        stem = folder.stem_for(model.name, example) if model.stem is None else model.stem
        classes = model.classes or folder.classes_for(model.name, data)
        shape = tuple(example.shape[1:])
        mean, std = tuple(data.mean) or None, tuple(data.std) or None
        names, resize = data.class_names or None, self.recipe.data.resize
        return folder.Description(model.name, classes, shape, mean, std, resize, stem, names)


def data_of(source: Source) -> Data:
    """The data of a recipe: read, limited, divided for validation."""
    data = load(
        source.path,
        mean=source.mean,
        std=source.std,
        resize=source.resize,
        validation=source.validation if source.limit is None else 0.0,
        stream=source.stream,
        workers=source.workers,
        skip_bad=source.skip_bad,
    )
    if source.limit is None:
        return data
    parts = {name: limited(getattr(data, name), source.limit) for name in ("train", "test", "validation")}
    data = replace(data, **parts)
    return with_validation(data, source.validation) if source.validation else data


def start(bench: Bench) -> nn.Module:
    """The network at full size: with the recipe's weights, or with random ones of the seed."""
    from prunus.models import load_weights

    with bench.runtime.seeded():
        model = folder.build(bench.description)
    if bench.recipe.model.weights is not None:
        load_weights(model, bench.recipe.model.weights)
    return model


def baseline(bench: Bench, upstream: Path | None, out: Path) -> None:
    """Train the network at full size."""
    assert bench.recipe.train is not None
    model, description, plan = opened(bench, upstream)
    trained(bench, model, bench.recipe.train, out, description, plan)


def sparsity(bench: Bench, upstream: Path | None, out: Path) -> None:
    """Train with the penalty or the gates of a method."""
    assert bench.recipe.sparsity is not None
    model, description, plan = opened(bench, upstream)
    before = histograms.values_of(model)  # of what came before, where the stage goes on from a checkpoint too
    hooks = hooks_of(bench, model)
    more = {"knobs": job.knobs(bench.recipe.sparsity.method, bench.recipe.sparsity.options)}
    trained(bench, model, bench.recipe.sparsity, out, description, plan, hooks=hooks, more=more)
    if join(bench.runtime).rank == 0:
        histograms.write(out, before, histograms.values_of(model))


def cut(bench: Bench, upstream: Path | None, out: Path) -> None:
    """Cut, with proof. A method that reads data gets the train part, in batches of the fine-tuning."""
    assert bench.recipe.prune is not None
    model, description, plan = opened(bench, upstream)
    wanted = job.checked(replace(bench.recipe.prune, seed=bench.runtime.seed))
    method = job.configured(wanted.method, wanted.options)
    reads = NOTHING
    if wanted.repair or wants_data(method):
        bench.runtime.settled(model)
        size = (bench.recipe.finetune or bench.recipe.train or Fit()).batch_size
        runtime, task, repair = bench.runtime, bench.task, wanted.repair
        reads = supplies(method, bench.data, runtime=runtime, task=task, batch_size=size, repair=repair)
    pruned = job.make(model, bench.example, wanted, reads)
    results = job.answer(job.Outcome(pruned, job.Accuracy(), None), wanted)
    results.pop("accuracy")
    results["conventions"] = conventions(model, pruned.model, bench.example)
    if join(bench.runtime).rank == 0:
        whole = pruned.plan if plan is None else plan.then(pruned.plan)
        folder.write(out, pruned.model, whole, description, results)


def finetune(bench: Bench, upstream: Path | None, out: Path, *, dense: Path | None) -> None:
    """Train what was cut. dense: where the teacher lies; None for the recipe's starting weights."""
    section = bench.recipe.finetune
    assert section is not None
    model, description, plan = opened(bench, upstream)
    teacher = opened(bench, dense)[0] if section.teacher else None
    hooks = job.holding(bench.recipe.prune, model)
    trained(bench, model, section, out, description, plan, hooks=hooks, teacher=teacher)


def measured(
    bench: Bench, networks: Mapping[str, Path | None], part: Literal["test", "validation"] = "test"
) -> dict[str, Any]:
    """The metrics of each network on a part of the data, in float32. None stands for the starting weights."""
    runtime = replace(bench.runtime, precision="fp32", compile=False)
    found = {}
    for name, place in networks.items():
        model = opened(bench, place)[0]
        metrics = evaluate(model, bench.data, part=part, task=bench.task, runtime=runtime, progress=bench.progress)
        found[name] = plain_metrics(metrics)
    return found


def costs(bench: Bench, place: Path | None) -> dict[str, int]:
    """What the network of a stage costs, for a recipe that cuts nothing."""
    from prunus.costs import cost

    counted = cost(opened(bench, place)[0], bench.example)
    return {kind: getattr(counted, kind) for kind in ("macs", "params", "nonzero", "bytes")}


def conventions(dense: nn.Module, small: nn.Module, example: Tensor) -> dict[str, dict[str, int]]:
    """The macs of both networks by each published table's rules, beside those of Prunus's own; those that cannot count
    this network are left out."""
    from prunus.costs import CONVENTIONS, cost

    found = {}
    for name in CONVENTIONS:
        with suppress(InputError):
            counted = [cost(net, example.to(next(net.parameters()).device), name).macs for net in (dense, small)]
            found[name] = dict(zip(("before", "after"), counted, strict=True))
    return {name: counts for name, counts in found.items() if name != "macs"}


def hooks_of(bench: Bench, model: nn.Module) -> list[Any]:
    """The method of [sparsity], attached to the model. Raises InputError for a method without a training part."""
    section = bench.recipe.sparsity
    assert isinstance(section, Sparsity)
    cut, place = bench.recipe.prune, bench.runtime.torch_device
    bench.runtime.settled(model)
    return [
        job.attached(
            section.method,
            section.options,
            model,
            bench.example.to(place),
            section.target,
            section.epochs,
            pin=() if cut is None else tuple(cut.pin),
            seed=bench.runtime.seed,
            rates=section.rates,
            rates_layout=section.rates_layout,
            keep_rule=section.keep_rule,
        )
    ]


def opened(bench: Bench, place: Path | None) -> tuple[nn.Module, folder.Description, Plan | None]:
    """The network that a stage left, or the one that the chain starts from."""
    if place is None:
        return start(bench), bench.description, None
    description, plan, weights = folder.read(place)
    return folder.rebuild(description, plan, weights), description, plan


def trained(
    bench: Bench,
    model: nn.Module,
    section: Fit,
    out: Path,
    description: folder.Description,
    plan: Plan | None,
    *,
    hooks: list[Any] | None = None,
    teacher: nn.Module | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Fit, from the stage's checkpoints on if there are some, and write the folder. Raises DataError where there is no
    test part to measure on later."""
    if bench.measures:
        bench.data.part("test")
    watchers: list[Watcher] = [JsonLines(out / "metrics.jsonl")]
    watchers += [Shares(out / SHARES, hook) for hook in hooks or () if callable(getattr(hook, "left", None))]
    if bench.progress and not sys.stderr.isatty():  # a terminal has a bar and its lines; a log gets the lines alone
        watchers.append(Lines())
    if section is list(bench.recipe.trainings.values())[-1]:
        watchers += bench.judges
    if bench.recipe.trackers:
        watchers.append(Trackers(bench.recipe.trackers, out, bench.recipe.name, asdict(section)))
    history = fit(
        model,
        bench.data,
        only_fit(section),
        hooks=hooks or (),
        runtime=bench.runtime,
        task=bench.task,
        teacher=teacher,
        validate=partial(_published, bench) if bench.recipe.data.published else None,
        checkpoints=Checkpoints(out / CHECKPOINTS, every=bench.recipe.checkpoint_every),
        watchers=watchers,
        progress=bench.progress,
    )
    for hook in hooks or ():
        if hasattr(hook, "settle"):
            hook.settle()
    if join(bench.runtime).rank == 0:
        best = {} if history.best is None else {"best": history.best, "selection": bench.recipe.selection}
        taken = {} if (steps := _steps(bench, section)) is None else {"steps": steps * len(history)}
        results = {"epochs": len(history), **taken, **best, "training_seconds": history.seconds, **(more or {})}
        folder.write(out, model, plan, description, results)


def _steps(bench: Bench, section: Fit) -> int | None:
    """Steps of the optimizer in an epoch, where that is known."""
    from prunus.engine.steps import size_of, steps_of

    if not isinstance(bench.data.train, Split | Stream):
        return None
    return steps_of(bench.data, only_fit(section), bench.runtime, join(bench.runtime), size_of).length


def _published(bench: Bench, model: nn.Module) -> Published:
    """How good a model is on the test part."""
    metrics = evaluate(model, bench.data, task=bench.task, runtime=replace(bench.runtime, compile=False))
    return Published(goodness(metrics), metrics)
