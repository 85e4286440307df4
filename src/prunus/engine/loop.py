"""`fit` and `evaluate`.

A hook is any object with some of these methods; methods reach training only so:

    epoch_start(e)     before epoch e, counted from 0: rank, mask, anneal
    penalty()          a scalar tensor, added to the loss of every step before it is scaled; runs outside autocast
    after_step()       after the optimizer's step: hold masks, clamp gates

`data` is a `Data` (its train part, augmented as `Fit` says) or the user's own iterable of batches, which must start
anew each time it is iterated. A `set_epoch(e)` on it or on its sampler is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunus.engine.config import Fit
from prunus.engine.data import Data, Split, batches
from prunus.engine.history import Epoch, History, showing
from prunus.engine.ledger import Ledger
from prunus.engine.objective import Loss, objective_of
from prunus.engine.optimizer import factor, optimizer
from prunus.engine.runtime import Runtime
from prunus.engine.task import Classification, Metrics, Task
from prunus.errors import DataError, InputError

__all__ = ["Epoch", "Fit", "History", "Hook", "Metrics", "evaluate", "fit"]

Feed = Iterable[Any]
_HOOKS = ("epoch_start", "penalty", "after_step")


class Hook(Protocol):
    """All that a hook may have; each method is optional."""

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
    validate: Data | Split | Feed | Callable[[nn.Module], Any] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place. It stays on the runtime's device; its modules' modes and the global seeds are put back.

    loss: `loss(model, batch)` instead of the task's. teacher: distil from its logits (see Fit). validate: after every
    epoch, what `evaluate` takes (at the runtime's precision), or a callable of the model; goes into the history.
    Raises PrunusError, with epoch and step, when the loss stops being finite; on the CPU the weights are then
    still those of the step before. Raises InputError's kin for data, hooks or settings that cannot work.
    """
    config, runtime, task = config or Fit(), runtime or Runtime(), task or Classification()
    on_epoch, penalties, on_step = ([getattr(h, name) for h in _checked(hooks) if hasattr(h, name)] for name in _HOOKS)
    feed = _training_feed(data, config, runtime)
    length = _length(feed)
    done: list[Epoch] = []
    with runtime.seeded(), modes_kept(model, teacher):
        net = runtime.place(model)
        objective = objective_of(task, loss, teacher, config, runtime)
        sgd, scaler = optimizer(model, config), runtime.scaler()
        with showing("training", progress, length and length * config.epochs, config.epochs) as shown:
            for e in range(config.epochs):
                for call in on_epoch:
                    call(e)
                _set_epoch(feed, e)
                model.train()
                ledger = Ledger(e, config.epochs, runtime)
                for i, batch in enumerate(feed):
                    lr = config.lr * factor(config, e * length + i if length else e, length or 1)
                    for group in sgd.param_groups:
                        group["lr"] = lr
                    batch = runtime.move(batch)
                    with runtime.autocast():
                        value = objective(net, batch)
                    penalty = sum((call() for call in penalties), torch.zeros((), device=value.device))
                    ledger.add(value, penalty, lr, _size(task, batch, loss))
                    sgd.zero_grad(set_to_none=True)
                    torch.autograd.backward(scaler.scale(value + penalty))
                    if config.clip is not None:
                        scaler.unscale_(sgd)
                        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                    scaler.step(sgd)
                    scaler.update()
                    for call in on_step:
                        call()
                    shown.step()
                done.append(ledger.close(lambda: _validated(model, validate, data, task, runtime)))
                shown.epoch(done[-1])
    return History(tuple(done))


def evaluate(
    model: nn.Module,
    data: Data | Split | Feed,
    *,
    batch_size: int = 256,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    task: Task | None = None,
    runtime: Runtime | None = None,
    progress: bool = False,
) -> Any:
    """`Metrics` (or what `task` makes of its sums) of the model in eval mode; float32 unless `runtime` differs.

    data: a `Data` (its test part), a `Split` (with mean and std), or an iterable of batches. The model is moved to the
    runtime's device; the mode of each of its modules is put back. Raises DataError and ExampleError.
    """
    task, runtime = task or Classification(), runtime or Runtime()
    feed = _measuring_feed(data, batch_size, mean, std, runtime)
    totals: dict[str, Tensor] = {}
    n = 0
    with modes_kept(model), torch.no_grad():
        net = runtime.place(model)
        model.eval()
        with showing("evaluating", progress, _length(feed)) as shown:
            for batch in feed:
                batch = runtime.move(batch)
                with runtime.autocast():
                    output = task.forward(net, batch)
                for key, value in task.tally(output, batch).items():
                    totals[key] = totals[key] + value if key in totals else value
                n += task.size(batch)
                shown.step()
    if not n:
        raise DataError("the data to evaluate on gave no batches")
    return task.metrics({key: float(value) for key, value in totals.items()}, n)


@contextmanager
def modes_kept(*models: nn.Module | None) -> Iterator[None]:
    """Put the train or eval mode of every module back as it was."""
    modes = [(module, module.training) for model in models if model is not None for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _training_feed(data: Data | Feed, config: Fit, runtime: Runtime) -> Feed:
    if isinstance(data, Split):
        raise InputError("fit needs a Data or batches, not a bare Split; see prunus.engine.data.batches")
    if not isinstance(data, Data):
        return data
    if not isinstance(data.train, Split):
        return data.train
    n = len(data.train)
    if not n:
        raise DataError(f"{data.name} has no train part")
    lone = n % config.batch_size == 1 and n > 1
    return batches(
        data.train,
        batch_size=config.batch_size,
        mean=data.mean,
        std=data.std,
        shuffle=True,
        seed=runtime.seed,
        crop=config.crop,
        flip=config.flip,
        drop_last=lone or (config.drop_last and n >= config.batch_size),
        device=runtime.torch_device,
        channels_last=runtime.channels_last,
    )


def _measuring_feed(
    data: Data | Split | Feed,
    batch_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    runtime: Runtime,
) -> Feed:
    part: Split | Feed
    if isinstance(data, Data):
        part, mean, std = data.test, mean or data.mean, std or data.std
        if isinstance(part, Split) and not len(part):
            raise DataError(f"{data.name} has no test part")
    else:
        part = data
    if not isinstance(part, Split):
        return part
    if not mean or not std:
        raise InputError("a bare Split needs mean= and std=")
    layout = runtime.channels_last
    return batches(part, batch_size=batch_size, mean=mean, std=std, device=runtime.torch_device, channels_last=layout)


def _validated(model: nn.Module, validate: Any, data: Any, task: Task, runtime: Runtime) -> Any:
    if validate is None:
        return None
    if callable(validate):
        return validate(model)
    known = (data.mean, data.std) if isinstance(data, Data) else (None, None)
    return evaluate(model, validate, mean=known[0], std=known[1], task=task, runtime=runtime)


def _checked(hooks: Sequence[Any]) -> Sequence[Any]:
    for hook in hooks:
        if not any(callable(getattr(hook, name, None)) for name in _HOOKS):
            raise InputError(f"hook {type(hook).__name__} has none of the methods {', '.join(_HOOKS)}")
    return hooks


def _set_epoch(feed: Feed, e: int) -> None:
    for holder in (feed, getattr(feed, "sampler", None)):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(e)
            return


def _length(feed: Feed) -> int | None:
    try:
        return len(feed)  # type: ignore[arg-type]
    except TypeError:
        return None


def _size(task: Task, batch: Any, loss: Loss | None) -> int:
    if loss is None:
        return task.size(batch)
    while isinstance(batch, dict | list | tuple) and batch:
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(batch) if isinstance(batch, Tensor) and batch.ndim else 1
