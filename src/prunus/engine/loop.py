"""`fit` and `evaluate`.

A hook is any object with some of these methods; methods reach training only so:

    param_groups()     parameters of its own, such as gates, for the optimizer: dicts with `params`, and what is special
    hold(optimizer)    once, before the first step: to keep the optimizer's state and the gradients under masks
    epoch_start(e)     before epoch e, counted from 0: rank, mask, anneal
    penalty()          a scalar tensor, added once a step to the loss before it is scaled; runs outside autocast
    after_step()       after the optimizer's step: hold masks, clamp gates
    eligible()         whether the epoch that ends now may be chosen as the best, such as: is the budget held?
    state_dict()       plain data and tensors for a checkpoint, and load_state_dict(state) to go on from it

`data` is a `Data` (its train part, augmented as `Fit` says) or the user's own iterable of batches, which must start
anew each time it is iterated. A `set_epoch(e)` on it or on its sampler is called.

Started by `torchrun` or `accelerate launch`, the processes share each batch, and do what one process does that
accumulates as many parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from prunus.engine.average import Average
from prunus.engine.checkpoint import Checkpoints
from prunus.engine.config import Fit
from prunus.engine.data import Data, Split, Stream, batches
from prunus.engine.history import Epoch, History, showing
from prunus.engine.memory import freed_memory_kept
from prunus.engine.objective import Loss, objective_of
from prunus.engine.optimizer import optimizer
from prunus.engine.processes import One, join, synchronised
from prunus.engine.runtime import Runtime
from prunus.engine.state import HOOKS, State, having, settings_of
from prunus.engine.step import Step, outside
from prunus.engine.steps import check_batches, size_of, steps_of
from prunus.engine.task import Classification, Metrics, Task
from prunus.engine.watch import Watcher, watched
from prunus.errors import DataError, InputError, ModelError

__all__ = ["Checkpoints", "Epoch", "Fit", "History", "Hook", "Metrics", "evaluate", "fit"]

Feed = Iterable[Any]
Validate = Data | Split | Stream | Feed | Callable[[nn.Module], Any] | None


class Hook(Protocol):
    """The core of what a hook may have; each method is optional."""

    def epoch_start(self, e: int) -> None: ...

    def penalty(self) -> Tensor: ...

    def after_step(self) -> None: ...


def fit(
    model: nn.Module,
    data: Data | Feed,
    config: Fit | None = None,
    *,
    hooks: Sequence[Any] = (),
    runtime: Runtime | None = None,
    task: Task | None = None,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    validate: Validate = None,
    checkpoints: Checkpoints | None = None,
    watchers: Sequence[Watcher] = (),
    progress: bool = True,
) -> History:
    """Train `model` in place. It stays on the runtime's device; its modules' modes and the global seeds are put back.

    loss: `loss(model, batch)` instead of the task's. teacher: distil from it (see Distil). validate: after every epoch,
    what `evaluate` takes (at the runtime's precision), or a callable of the model; by default the data's validation
    part. checkpoints: write them, and go on from the newest. watchers: told of every epoch.

    Raises PrunusError, with epoch and step, when the loss stops being finite; on the CPU the weights are then
    still those of the step before. Raises StorageError where a checkpoint cannot be written, ProcessError where
    processes do not meet, and InputError's kin for data, hooks or settings that cannot work.
    """
    if not isinstance(config, Fit | None):
        raise InputError(f"config is a Fit, such as Fit(epochs=10), not {type(config).__name__}")
    config, runtime = config or Fit(), runtime or Runtime()
    task = task or Classification(config.label_smoothing)
    hooks, processes = _checked(hooks), join(runtime)
    validate = data.validation if validate is None and isinstance(data, Data) else validate
    if config.selection == "best" and validate is None:
        raise InputError("selection='best' needs a validation part; carve one from train, or keep the last epoch")
    steps = steps_of(data, config, runtime, processes, size_of if loss else task.size)
    extra = [group for hook in hooks if hasattr(hook, "param_groups") for group in hook.param_groups()]
    with runtime.seeded(), modes_kept(model, teacher), freed_memory_kept(runtime.torch_device):
        runtime.settled(model)
        sgd = optimizer(model, config, extra)
        for hook in having(hooks, "hold"):
            hook.hold(sgd)
        settings = settings_of(model, config, runtime, processes.world, steps.length)
        state = State(model, sgd, runtime.scaler(), Average(model, config.ema), hooks, settings)
        state.restore(checkpoints, runtime, processes)
        with (
            synchronised(model, runtime.sync_bn, processes, runtime.torch_device),
            watched(progress, watchers, processes, steps.length, config.epochs, state) as seen,
        ):
            net = runtime.compiled(processes.wrap(model))
            objective = objective_of(model, task, loss, teacher, config, runtime)
            step = Step(net, objective, state, config, runtime, processes, steps.length, outside(model, extra))
            for e in range(state.epoch, config.epochs):
                ledger = state.open(e, config.epochs, runtime)
                model.train()
                for parts in ledger.timed(steps.epoch(e, state.step, state.before)):
                    step(parts, ledger)
                    seen.step()
                    if checkpoints and state.due(checkpoints.every, steps.length):
                        state.save(checkpoints, processes)
                done = state.close(processes)
                with state.average.in_place():
                    done = replace(done, metrics=_validated(model, validate, data, task, runtime))
                    state.choose(done, config.selection)
                state.save(checkpoints, processes)
                seen.epoch(done, config.epochs)
        state.settle()
    return History(tuple(state.done), None if state.best is None else state.best.epoch)


def evaluate(
    model: nn.Module,
    data: Data | Split | Stream | Feed,
    *,
    part: Literal["test", "validation"] = "test",
    batch_size: int = 256,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    task: Task | None = None,
    runtime: Runtime | None = None,
    progress: bool = False,
) -> Any:
    """`Metrics` (or what `task` makes of its sums) of the model in eval mode; float32 unless `runtime` differs.

    data: a `Data` (of which `part` is read), a `Split` (with mean and std), or an iterable of batches. The model is
    moved to the runtime's device; the mode of each of its modules is put back. Several processes share the images of a
    `Data`, and each returns the metrics of all. Raises DataError and ExampleError.
    """
    task, runtime = task or Classification(), runtime or Runtime()
    processes = join(runtime)
    feed, shared = _measuring_feed(data, part, batch_size, mean, std, runtime, processes)
    totals: dict[str, Tensor] = {}
    n = 0
    with modes_kept(model), torch.no_grad():
        net = runtime.place(model)
        model.eval()
        with showing("evaluating", progress and processes.rank == 0, length(feed)) as shown:
            for batch in feed:
                batch = runtime.move(batch)
                with runtime.autocast():
                    output = task.forward(net, batch)
                for key, value in task.tally(output, batch).items():
                    totals[key] = totals[key] + value if key in totals else value
                n += task.size(batch)
                shown.step()
    if shared:
        keys = sorted(totals)
        counted = processes.total(torch.stack([torch.as_tensor(n), *(totals[k].cpu() for k in keys)]).double())
        n, totals = int(counted[0]), dict(zip(keys, counted[1:], strict=True))
    if not n:
        raise DataError("the data to evaluate on gave no batches")
    return task.metrics({key: float(value) for key, value in totals.items()}, n)


@contextmanager
def modes_kept(*models: nn.Module | None) -> Iterator[None]:
    """Put the train or eval mode of every module back as it was. Raises ModelError for what is no module."""
    for model in models:
        if model is not None and not isinstance(model, nn.Module):
            hint = "; pass its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
            raise ModelError(f"a model is a torch.nn.Module, not {type(model).__name__}{hint}")
    modes = [(module, module.training) for model in models if model is not None for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def length(feed: object) -> int | None:
    """Batches an epoch, where that is known beforehand."""
    try:
        return len(feed)  # type: ignore[arg-type]
    except TypeError:
        return None


def _measuring_feed(
    data: Data | Split | Stream | Feed,
    name: Literal["test", "validation"],
    batch_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    runtime: Runtime,
    processes: One,
) -> tuple[Feed, bool]:
    """The batches, and whether this process has only its share of them."""
    part: Split | Stream | Feed
    if isinstance(data, Data):
        part, mean, std = data.part(name), mean or data.mean, std or data.std
    else:
        part = data
    if not isinstance(part, Split | Stream):
        check_batches(part)
        return part, False
    if not mean or not std:
        raise InputError("a bare Split needs mean= and std=")
    shared = processes.world > 1 and len(part) >= processes.world
    if shared:
        part = part.subset(torch.arange(processes.rank, len(part), processes.world))
    layout = runtime.channels_last
    feed = batches(part, batch_size=batch_size, mean=mean, std=std, device=runtime.torch_device, channels_last=layout)
    return feed, shared


def _validated(model: nn.Module, validate: Any, data: Any, task: Task, runtime: Runtime) -> Any:
    if validate is None:
        return None
    if callable(validate) and not hasattr(validate, "__iter__"):
        return validate(model)
    known = (data.mean, data.std) if isinstance(data, Data) else (None, None)
    return evaluate(model, validate, mean=known[0], std=known[1], task=task, runtime=runtime)


def _checked(hooks: Sequence[Any]) -> Sequence[Any]:
    for hook in hooks:
        if not any(callable(getattr(hook, name, None)) for name in HOOKS):
            raise InputError(f"hook {type(hook).__name__} has none of the methods {', '.join(HOOKS)}")
    return hooks
