"""What prune() was asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .errors import ExampleError, InputError, ModelError, TargetError, UnknownName
from .graph.coupling import Coupling
from .state import example_tensors, plain_table, unwrapped
from .target import AUTO, Target
from .widths import Rates


def the_model(model: Any) -> nn.Module:
    """The module inside wrappers. Raises ModelError for what is no module, has no memory, or holds values that are no
    numbers: scores and proofs of such a model mean nothing."""
    dense = unwrapped(model)
    for name, tensor in (*dense.named_parameters(), *dense.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{name} has no shape yet, as lazy modules have before a first input; run the model once")
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device; load the weights first")
        if tensor.is_inference() and isinstance(tensor, nn.Parameter):
            raise ModelError(
                f"{name} was made under torch.inference_mode, and takes no gradient; make it outside of that"
            )
        if tensor.is_floating_point():
            values = tensor.detach()
            values = values.float() if values.element_size() == 1 else values  # float8 has no sum
            if bool(torch.isfinite(values.sum())):  # no sum of what is not finite is finite
                continue
            good = torch.isfinite(values) if isinstance(tensor, nn.Parameter) else ~torch.isnan(values)
            if not bool(good.all()):
                raise ModelError(f"{name} holds values that are not finite (NaN or infinity)")
    return dense


def check_example(example: Any) -> None:
    """An example has samples, and its numbers are finite. Raises ExampleError."""
    for tensor in example_tensors(example):
        if tensor.dim() and tensor.shape[0] == 0:
            raise ExampleError(f"the example is empty: its shape is {tuple(tensor.shape)}")
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise ExampleError(f"the example {tuple(tensor.shape)} holds NaN")


def further(examples: Any) -> tuple[Any, ...]:
    """More examples, each checked as the first is. Raises ExampleError, also for one that is not in a list."""
    if isinstance(examples, (torch.Tensor, Mapping, str)) or not isinstance(examples, Iterable):
        raise ExampleError(f"examples is a list of further examples, as in [x], not {type(examples).__name__}")
    found = tuple(map(plain_table, examples))
    for one in found:
        check_example(one)
    return found


def names(given: Any, what: str = "pin") -> tuple[Any, ...]:
    """One name or several, each once. Raises InputError for what is neither a name nor, to pin, a module."""
    kinds, told = ((str, nn.Module), "names or modules") if what == "pin" else ((str,), "names")
    found = (given,) if isinstance(given, kinds) else given
    if not isinstance(found, Iterable) or isinstance(found, nn.Module):
        raise InputError(f"{what} takes {told}, not {type(given).__name__}")
    found = tuple(found)
    if wrong := [each for each in found if not isinstance(each, kinds)]:
        raise InputError(f"{what} takes {told}, not {type(wrong[0]).__name__}")
    return tuple(dict.fromkeys(found))


STRUCTURED = frozenset({"macs", "params", "channels"})
"""The budgets of a method that does not say in `budgets` which ones it takes."""


def the_target(
    target: str | Target | None,
    rates: Rates | None,
    widths: Mapping[str, int] | None,
    drop: Sequence[str],
    method: object = None,
    *,
    timed: bool = False,
) -> Target | None:
    """The target as an object. Exactly one of target, rates and widths is wanted; dropped blocks may stand alone.

    method: whose `budgets` the target may name, and which may say itself how much stays (`decides`). timed: whether the
    caller can measure a latency."""
    given = [name for name, value in (("target", target), ("rates", rates), ("widths", widths)) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} were given; one of them says how much stays")
    if not given and not drop and not getattr(method, "decides", False):
        raise InputError('nothing says how much stays: pass target="macs=50%", rates=, widths= or drop=')
    goal = Target.parse(target) if isinstance(target, str) else target
    if goal is not None and not isinstance(goal, Target):
        raise InputError(f"target is text or a Target, not {type(goal).__name__}")
    if goal is not None and goal.latency is not None and not timed:
        raise TargetError(
            "latency= is measured on finished cuts, so prune() alone takes it; train towards macs=, params= or "
            "channels=, or cut by latency before or after the training"
        )
    _takes(method, goal, given, drop)
    return goal


def _takes(method: object, goal: Target | None, given: Sequence[str], drop: Sequence[str]) -> None:
    """A method of channels is not asked for single weights, nor the other way round. Raises TargetError."""
    budgets = getattr(method, "budgets", STRUCTURED)
    named = () if goal is None else tuple(goal.budgets)
    if "weights" not in budgets:
        if "weights" in named:
            raise TargetError(
                "weights= counts single weights, and this method removes channels: use macs=, params= or channels=, or "
                "the method 'weights'"
            )
        return
    wrong = [f"{kind}=" for kind in (*named, *given) if kind not in (*budgets, "target")]
    if wrong or drop:
        told = " and ".join(wrong or ["drop="])
        raise TargetError(f"{told} cuts channels or blocks, and this method removes single weights: use weights=30%")
    if goal is not None and getattr(method, "decides", False):
        raise TargetError(f"{goal} and the method's pattern both say how much stays; leave one of them out")


def check_way(method: object, goal: Target | None, drop: Sequence[str], steps: int, between: object) -> None:
    """Whether a method works towards what was asked in that many cuts. Raises InputError."""
    if between is not None and not callable(between):
        raise InputError(f"between is a function of the smaller model and the step, not {type(between).__name__}")
    searching = not callable(getattr(method, "score", None))
    if steps > 1 and (searching or callable(getattr(method, "thin", None))):
        raise InputError(
            f"steps={steps}: {type(method).__name__} takes all that goes at once; steps are for methods that rank"
        )
    if searching and (goal is None or drop or goal.blocks):
        raise InputError(
            f"{type(method).__name__} finds widths itself; give it a target, and no rates, widths, drop or blocks"
        )


def check_timed(method: object, goal: Target | None, steps: int) -> None:
    """Whether a latency can be met in this way. Raises TargetError."""
    if goal is None or goal.latency is None:
        return
    if steps > 1:
        raise TargetError(
            f"latency= is measured on the finished cut, so it takes steps=1, not {steps}; go on the way by macs=, and "
            "cut what is trained by latency"
        )
    if not callable(getattr(method, "score", None)):
        raise TargetError(
            f"latency= is for methods that rank channels, and {type(method).__name__} searches for widths itself: use "
            "macs=, params= or channels="
        )
    if goal.blocks == AUTO:
        raise TargetError("blocks=auto ranks by MACs, not by latency: name a number, as blocks=-2, or use drop=")


def check_blocks(coupling: Coupling, drop: Iterable[str]) -> None:
    """Every name is a residual block that can go. Raises TargetError for one that cannot, UnknownName for no block."""
    known = [r.name for r in coupling.blocks]
    for name in drop:
        if name in coupling.undroppable:
            raise TargetError(f"drop: {name} stays: {coupling.undroppable[name]}")
        if name not in known:
            raise UnknownName.of("residual block", name, known)
