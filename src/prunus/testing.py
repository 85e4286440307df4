"""A contract for your own model in your own test suite.

    import prunus.testing

    def test_my_model_prunes():
        prunus.testing.check_model(my_model(), my_example(), "macs=50%")

Raises `ContractError`, which is an AssertionError, with every promise that was broken.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .api import prune
from .asked import further, names, the_target
from .errors import PrunusError
from .graph.forward import outputs
from .methods import Method
from .plan import Plan
from .result import Pruned
from .state import call_model, copied, fresh, uncheckpointed
from .surgery import apply
from .surgery.stored import alike
from .target import Target

__all__ = ["Checked", "ContractError", "check_model", "lively"]


class ContractError(PrunusError, AssertionError):
    """A model, or Prunus on it, does not keep what `check_model` checks."""


@dataclass(frozen=True)
class Checked:
    """A model that passed: the cut, and the seconds that each part took."""

    pruned: Pruned
    seconds: Mapping[str, float]


def check_model(
    model: nn.Module,
    example: Any,
    target: str | Target = "macs=50%",
    method: str | Method = "magnitude",
    *,
    pin: str | nn.Module | Iterable[str | nn.Module] = (),
    attention: str = "heads",
    train: bool = True,
    examples: Iterable[Any] = (),
) -> Checked:
    """Prune `model` and check what `prunus.prune` promises, on the ways that the example and further `examples` take:

    exact           the cut computes what the masked model computes, in eval and in train mode
    on budget       every limit of the target holds, by Prunus's own count of the cut model
    restored        the model passed in is as it was: tensors, modes, gradients, hooks, random states
    deterministic   a second call makes the same plan
    replayable      the plan, written as JSON and read back, cuts a copy to the same tensors and outputs
    trainable       one backward in train mode gives finite gradients (`train=False` leaves it out)

    Raises ContractError, and what `prunus.prune` raises for a model that it refuses.
    """
    broken: list[str] = []
    seconds: dict[str, float] = {}
    pin, examples = names(pin), further(examples)  # both calls get the same
    before = _snapshot(model)
    with _timed(seconds, "prune"):
        first = prune(model, example, target, method, pin=pin, attention=attention, examples=examples)
    broken += [f"restored: {change}" for change in _changes(before, _snapshot(model))]
    if first.proof is None or not first.proof.holds:
        broken.append("exact: the cut was not proven")
    broken += _over(first, target)
    with _timed(seconds, "again"):
        again = prune(model, example, target, method, pin=pin, attention=attention, check=False, examples=examples)
    if first.plan.to_json() != again.plan.to_json():
        broken.append("deterministic: two calls made two plans")
    with _timed(seconds, "replay"):
        broken += _replayed(model, (example, *examples), first)
    if train:
        with _timed(seconds, "train"):
            broken += [wrong for one in (example, *examples) for wrong in _trained(first.model, one)]
    if broken:
        raise ContractError(f"{type(model).__name__}: " + "; ".join(broken))
    return Checked(first, seconds)


def lively(model: nn.Module, seed: int = 0, example: Any = None) -> nn.Module:
    """Draw scales, shifts and running statistics of all norms anew, in place: with those of a fresh model (ones and
    zeros) many a wrong cut would pass. Returns the model.

    With an example the statistics are those of its activations, off by what is drawn. Otherwise a deep network of
    random weights may say nearly the same of every input, and a detector the same of every box.
    """
    draw = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_((torch.rand(tensor.shape, generator=draw) * (high - low) + low).to(tensor))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                uniform(module.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
                uniform(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            if "norm" in type(module).__name__.lower():
                for name, parameter in module.named_parameters(recurse=False):
                    low, high = (-0.3, 0.3) if name == "bias" else (0.5, 1.5)
                    if parameter.is_floating_point():
                        uniform(parameter, low, high)
    if example is not None:
        _follow(model, example)
    return model


def _follow(model: nn.Module, example: Any) -> None:
    """Move and stretch running statistics, as they are, to the activations of one forward in eval mode."""
    norms = {m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)}

    def fit(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm not in norms:  # of several calls the first counts
            return
        norms.remove(norm)
        mean, var = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
        rows = inputs[0].detach().movedim(1, 0).flatten(1)
        spread = rows.var(dim=1, correction=0).to(var)
        spread = torch.where(spread > 0, spread, 1.0)
        mean.copy_(rows.mean(dim=1).to(mean) + mean * spread.sqrt())
        var.mul_(spread)

    handles = [norm.register_forward_pre_hook(fit) for norm in norms]
    was = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            call_model(model.eval(), fresh(example))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in was.items():
            module.training = training


def _over(found: Pruned, target: str | Target) -> list[str]:
    goal = the_target(target, None, None, ())
    assert goal is not None
    dense = {kind: float(value) for kind, value in _kinds(found, found.plan.dense, found.before).items()}
    got = _kinds(found, found.plan.widths, found.after)
    return [
        f"on budget: {kind} is {got[kind]:,}, the limit is {limit:,.0f}"
        for kind, limit in goal.limits(dense).items()
        if got[kind] > limit
    ]


def _kinds(found: Pruned, widths: Iterable[int], cost: Any) -> dict[str, int]:
    return {"macs": cost.macs, "params": cost.params, "channels": sum(widths)}


def _replayed(model: nn.Module, examples: Iterable[Any], found: Pruned) -> list[str]:
    plan = Plan.from_json(json.loads(json.dumps(found.plan.to_json())))
    twin = apply(copied(model), plan)
    ours, theirs = _tensors(found.model), _tensors(twin)
    wrong = [name for name in {**ours, **theirs} if not _same(ours.get(name), theirs.get(name))]
    if wrong:
        return [f"replayable: the plan read from JSON cuts {wrong[0]} otherwise"]
    for example in examples:
        pair = [_outputs(net, example) for net in (found.model, twin)]
        if len(pair[0]) != len(pair[1]) or not all(map(_same, *pair)):
            return ["replayable: the plan read from JSON gives other outputs"]
    return []


def _trained(small: nn.Module, example: Any) -> list[str]:
    """One backward through all floating outputs, in train mode with norms on their stored statistics, so that a single
    example is enough."""
    net = copied(small).train()
    for module in net.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            module.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    try:
        with uncheckpointed():
            made = [t for t in outputs(call_model(net, fresh(example))) if t.requires_grad]
        torch.stack([t.float().square().mean() for t in made]).sum().backward()
    except RuntimeError as error:
        return [f"trainable: {str(error).splitlines()[0]}"]
    bad = [n for n, p in net.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    return [f"trainable: the gradient of {bad[0]} is not finite"] if bad else []


def _outputs(net: nn.Module, example: Any) -> list[Tensor]:
    net = copied(net).eval()
    with torch.no_grad(), torch.random.fork_rng(), uncheckpointed():
        torch.manual_seed(0)
        return list(outputs(call_model(net, fresh(example))))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and alike(a, b)


@dataclass(frozen=True)
class _Snapshot:
    tensors: Mapping[str, tuple[int, bool, Tensor]]
    grads: Mapping[str, Tensor | None]
    modules: tuple[tuple[str, bool, str, int], ...]
    draws: tuple[Any, ...]


def _snapshot(model: nn.Module) -> _Snapshot:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return _Snapshot(
        {name: (id(t), t.requires_grad, t.detach().clone()) for name, t in _tensors(model).items()},
        {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        tuple(
            (name, m.training, m.extra_repr(), sum(len(getattr(m, hook)) for hook in hooks))
            for name, m in model.named_modules()
        ),
        (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index]
    )


def _changes(before: _Snapshot, after: _Snapshot) -> Iterator[str]:
    for name, (own, learns, value) in before.tensors.items():
        now = after.tensors.get(name)
        if now is None or now[:2] != (own, learns) or not _same(now[2], value):
            yield f"{name} was changed"
    for name, grad in before.grads.items():
        now_grad = after.grads.get(name)
        if (grad is None) != (now_grad is None) or (grad is not None and not _same(grad, now_grad)):
            yield f"the gradient of {name} was changed"
    if before.modules != after.modules:
        pairs = zip(before.modules, after.modules, strict=False)
        yield f"module {next((a[0] for a, b in pairs if a != b), '')!r} was changed"
    if before.draws != after.draws:
        yield "a global random state was moved"


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start
