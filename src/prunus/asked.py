"""What prune() was asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .errors import ExampleError, InputError, ModelError, TargetError, UnknownName
from .graph.coupling import Coupling
from .state import example_tensors, unwrapped
from .target import Target
from .widths import Rates


def the_model(model: Any) -> nn.Module:
    """The module inside wrappers. Raises ModelError for what is no module, has no memory, or holds values that are no
    numbers: scores and proofs of such a model mean nothing."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model is a torch.nn.Module, not {type(model).__name__}")
    dense = unwrapped(model)
    for name, tensor in (*dense.named_parameters(), *dense.named_buffers()):
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device; load the weights first")
        if tensor.is_floating_point():
            values = tensor.detach()
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


def names(given: str | nn.Module | Iterable[Any]) -> tuple[Any, ...]:
    """One name or several."""
    return (given,) if isinstance(given, (str, nn.Module)) else tuple(given)


def the_target(
    target: str | Target | None, rates: Rates | None, widths: Mapping[str, int] | None, drop: Sequence[str]
) -> Target | None:
    """The target as an object. Exactly one of target, rates and widths is wanted; dropped blocks may stand alone."""
    given = [name for name, value in (("target", target), ("rates", rates), ("widths", widths)) if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} were given; one of them says how much stays")
    if not given and not drop:
        raise InputError('nothing says how much stays: pass target="macs=50%", rates=, widths= or drop=')
    goal = Target.parse(target) if isinstance(target, str) else target
    if goal is not None and not isinstance(goal, Target):
        raise InputError(f"target is text or a Target, not {type(goal).__name__}")
    for kind in ("latency", "weights"):
        if goal is not None and getattr(goal, kind) is not None:
            raise TargetError(f"{kind}= is not available yet; use macs=, params= or channels=")
    if goal is not None and goal.blocks:
        raise TargetError("blocks= is not available yet; name the blocks with drop=")
    return goal


def not_yet(**given: Any) -> None:
    """Arguments of the public signature that no method here uses are refused, not ignored."""
    used = [name for name, value in given.items() if not (value is None or value == ())]
    if used:
        raise InputError(f"{', '.join(used)}: not available yet; the methods here rank channels by weights alone")


def check_blocks(coupling: Coupling, drop: Iterable[str]) -> None:
    """Every name is a residual block of the model. Raises UnknownName."""
    known = [r.name for r in coupling.blocks]
    for name in drop:
        if name not in known:
            raise UnknownName.of("residual block", name, known)
