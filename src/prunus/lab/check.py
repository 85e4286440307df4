"""What can be said of a recipe before it runs: whether all of it can work, and how long it will take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from prunus.engine.config import Fit
from prunus.engine.data import Data, Split, Stream, batches
from prunus.engine.loop import evaluate, fit
from prunus.engine.processes import One
from prunus.engine.steps import steps_of
from prunus.engine.task import Classification, logits
from prunus.errors import DataError, ExampleError, InputError, UnknownName
from prunus.lab import chain, job
from prunus.lab.recipe import Recipe, only_fit
from prunus.lab.supplies import wants_data
from prunus.state import copied

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.api import Pruned

__all__ = ["Price", "check", "prices"]

WARM, TIMED = 2, 5
"""Steps that are not counted, and steps whose median is."""


@dataclass(frozen=True)
class Price:
    """Of one stage: epochs, steps an epoch, measured seconds a step, and seconds of one validation. Hours are
    projected from them."""

    stage: str
    epochs: int
    steps: int
    seconds_a_step: float
    validation: float

    @property
    def hours(self) -> float:
        """Of the whole stage."""
        return self.epochs * (self.steps * self.seconds_a_step + self.validation) / 3600

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "hours": self.hours}


def bench_of(recipe: Recipe, data: Data | None = None) -> chain.Bench:
    """A bench of the first seed. data: instead of what the recipe names."""
    supply = cache(lambda: data if data is not None else chain.data_of(recipe.data))
    return chain.Bench(recipe, replace(recipe.runtime, seed=recipe.all_seeds[0]), False, supply)


def check(recipe: Recipe, example: Tensor | None = None) -> list[tuple[str, str]]:
    """(what was looked at, what was found), for everything that needs no training.

    example: one input, to check without the data. Raises InputError's kin for the first thing that cannot work.
    """
    found = []
    if example is None:
        bench = bench_of(recipe)
        bench.data.part("test")
        found.append(("data", _parts(bench.data)))
    else:
        empty = Split.empty(example.shape[1])
        data = Data(empty, empty, recipe.model.classes or 0, (), (), "example")
        bench = bench_of(recipe, data)
        vars(bench)["example"] = example
    if bench.task is not None:
        found.append(("task", recipe.task))
    model = chain.start(bench)
    found.append(("model", _model(bench, model)))
    if recipe.sparsity is not None:
        chain.hooks_of(bench, model)
        found.append(("sparsity", f"{recipe.sparsity.method} attaches"))
    small: nn.Module = model
    if recipe.prune is not None:
        pruned = _cut(bench, model)
        small = pruned.model
        left = 100 * job.left(pruned.before.macs, pruned.after.macs)
        found.append(
            ("prune", f"{recipe.prune.target or 'what is asked for'} can be met: {left:.2f} % of the macs stay")
        )
    if recipe.finetune is not None and recipe.finetune.teacher:
        for name in recipe.finetune.distil.features:
            if name not in dict(small.named_modules()):
                raise UnknownName.of("module of finetune.distil.features", name, dict(small.named_modules()))
    return found


def prices(recipe: Recipe) -> list[Price]:
    """Time a few steps of every training on the real network, data and batch size.

    The cut of the network with its starting weights stands in for the one that will be fine-tuned.
    """
    bench = bench_of(recipe)
    model = chain.start(bench)
    found = []
    dense = copied(model)
    if recipe.train is not None and recipe.model.weights is None:
        found.append(_price(bench, "baseline", recipe.train, copied(model)))
    if recipe.sparsity is not None:
        net = copied(model)
        found.append(_price(bench, "sparsity", recipe.sparsity, net, chain.hooks_of(bench, net)))
    if recipe.finetune is not None:
        small = model if recipe.prune is None else _cut(bench, model).model
        teacher = dense if recipe.finetune.teacher else None
        found.append(_price(bench, "finetune", recipe.finetune, small, teacher=teacher))
    return found


class _Enough(Exception):
    """Ends a training that was only timed."""


class _Watch:
    """A hook that notes when steps end, and stops after enough of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def after_step(self) -> None:
        """Note the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM + TIMED + 1:
            raise _Enough


def _price(
    bench: chain.Bench,
    stage: str,
    section: Fit,
    model: nn.Module,
    hooks: Sequence[Any] = (),
    teacher: nn.Module | None = None,
) -> Price:
    task = bench.task or Classification()
    config = replace(only_fit(section), selection="last")
    steps = steps_of(bench.data, config, bench.runtime, One(), task.size).length
    if steps is None:
        raise DataError(f"{bench.recipe.data.path}: loaders that do not tell their length cannot be timed")
    watch = _Watch(bench.runtime.torch_device)
    data = replace(bench.data, validation=None)
    runtime, epochs = bench.runtime, -(-(WARM + TIMED + 1) // steps)
    with suppress(_Enough):
        fit(
            model,
            data,
            replace(config, epochs=epochs, warmup=0.0, steps=(), schedule="cosine"),
            hooks=[*hooks, watch],
            runtime=runtime,
            task=bench.task,
            teacher=teacher,
            progress=False,
        )
    gaps = [after - before for before, after in zip(watch.ends[WARM:], watch.ends[WARM + 1 :], strict=False)]
    return Price(stage, section.epochs, steps, statistics.median(gaps), _validation(bench, model))


def _validation(bench: chain.Bench, model: nn.Module) -> float:
    """Seconds that one validation will take, from a few batches; 0 where there is none."""
    data, size = bench.data, 256
    part = data.test if bench.recipe.data.published else data.validation
    if not isinstance(part, Split | Stream):
        return 0.0
    feed = list(islice(batches(part, batch_size=size, mean=data.mean, std=data.std), 2))
    begin = time.perf_counter()
    evaluate(model, feed, task=bench.task, runtime=replace(bench.runtime, compile=False))
    return (time.perf_counter() - begin) * len(part) / sum(len(batch[0]) for batch in feed)


def _cut(bench: chain.Bench, model: nn.Module) -> Pruned:
    """The cut as it will be, without its proof. By chance and at once where the method reads data, which takes long and
    may not be there."""
    cut = bench.recipe.prune
    assert cut is not None
    if wants_data(job.configured(cut.method, cut.options)):
        cut = replace(cut, method="random", options={}, steps=1)
    cut = replace(cut, repair=())
    wanted = job.checked(replace(cut, seed=bench.runtime.seed, check=False))
    return job.make(model, bench.example, wanted)


def _parts(data: Data) -> str:
    parts = [(name, getattr(data, name)) for name in ("train", "validation", "test")]
    counts = [f"{len(part):,} {name}" for name, part in parts if isinstance(part, Split | Stream) and len(part)]
    shape = " x ".join(map(str, data.example().shape[1:]))
    return (
        ", ".join(counts or ["loaders"]) + f"; inputs {shape}" + (f"; {data.classes} classes" if data.classes else "")
    )


def _model(bench: chain.Bench, model: nn.Module) -> str:
    """Costs in words, after a look at what the network gives for an input."""
    from prunus.costs import cost

    counted = cost(model, bench.example)
    if bench.task is None:
        model.eval()
        with torch.no_grad():
            scores = logits(model(bench.example.to(next(model.parameters()).device)))
        classes = bench.data.classes
        if scores.ndim != 2:
            raise ExampleError(f"the network gives {tuple(scores.shape)} for one input; needed: (1, classes)")
        if classes and scores.shape[1] < classes:
            raise InputError(f"model.classes: the network has {scores.shape[1]} outputs for {classes} classes")
    return f"{bench.recipe.model.name}, {counted.macs:,} macs, {counted.params:,} parameters"
