"""prune() in five steps: trace, score, select, cut, prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .costs import Cost, cost
from .errors import InputError, ModelError, TargetError, UnknownName
from .graph.coupling import Coupling
from .graph.record import unwrapped
from .graph.trace import nothing
from .methods import Method, method_of
from .methods.score import Floats
from .plan import Plan, plan_for
from .result import Pruned
from .select import Costs, Ints, to_budget, to_widths
from .surgery import apply, replay, verify
from .surgery.trial import settle
from .target import Target
from .widths import Rates, from_rates, from_widths

__all__ = ["Cost", "Coupling", "Plan", "Pruned", "Target", "apply", "cost", "inspect", "prune", "trace"]


def prune(
    model: nn.Module,
    example: Any,
    target: str | Target | None = None,
    method: str | Method = "magnitude",
    *,
    rates: Rates | None = None,
    widths: Mapping[str, int] | None = None,
    drop: Sequence[str] = (),
    pin: Sequence[str | nn.Module] = (),
    rates_layout: str = "published",
    keep_rule: str = "exact",
    check: bool = True,
    seed: int = 0,
    data: Any = None,
    loss: Any = None,
    evaluate: Any = None,
    repair: Sequence[str] = (),
    steps: int = 1,
    between: Any = None,
) -> Pruned:
    """A smaller copy of `model` within a budget, proven to compute what the masked model computes.

    `example` is a tensor, a tuple of positional inputs or a dict of keyword inputs that the model accepts. Say what to
    keep by `target` ("macs=50%", see Target), or by `rates` (fractions removed, a list, its text, or by layer), or by
    `widths` (by layer); `drop` names residual blocks whose branch becomes zero. `method` ranks the channels. `pin`
    names modules or tensors that stay whole. `check=False` skips the proof, never the replay of the kept channels.

    The user's model is not changed. Raises InputError where something passed is wrong (TargetError with the smallest
    possible budget, ModelError where nothing can be pruned), ProofError where the cut is not exact.
    """
    dense = unwrapped(model)
    later = {"data": data, "loss": loss, "evaluate": evaluate, "repair": repair, "between": between}
    not_yet([name for name, value in later.items() if value] + (["steps"] if steps != 1 else []))
    chosen, goal = method_of(method), parsed(target, rates, widths, drop)
    check_finite(dense)
    coupling = trace(dense, example, pin=pin)
    check_blocks(coupling, drop)
    if not coupling.groups and not drop:
        raise nothing(coupling)
    scores = chosen.score(dense, coupling, seed=seed)
    kept = selected(dense, coupling, scores, goal, chosen, rates, widths, drop, rates_layout, keep_rule)
    plan = plan_for(coupling, kept, drop)
    small = apply(dense, plan)
    replay(small, plan, example)
    proof = verify(dense, small, plan, example) if check else None
    before, after = cost(dense, example), cost(small, example)
    return Pruned(small, plan, before, after, coupling, proof, goal, remarks(coupling, goal, plan, drop))


def trace(model: nn.Module, example: Any, *, pin: Sequence[str | nn.Module] = ()) -> Coupling:
    """What is coupled in `model`: groups, what is pinned and why, unknown ops. Changes nothing.

    A trial cut of one step from every group shows which widths are written down as numbers; those groups are pinned
    too. Raises ExampleError, ModelError, UnknownName.
    """
    return settle(unwrapped(model), example, pin)


def inspect(model: nn.Module, example: Any, *, pin: Sequence[str | nn.Module] = ()) -> Coupling:
    """Print what `trace` finds, as a tree, and return it."""
    found = trace(model, example, pin=pin)
    print(found)
    return found


def parsed(
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


def not_yet(names: Sequence[str]) -> None:
    """Arguments of the public signature that no method here uses are refused, not ignored."""
    if names:
        raise InputError(f"{', '.join(names)}: not available yet; the methods here rank channels by weights alone")


def check_finite(model: nn.Module) -> None:
    """Scores of a model with NaN or infinite weights mean nothing."""
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            raise ModelError(f"{name} holds values that are not finite (NaN or infinity)")


def check_blocks(coupling: Coupling, drop: Iterable[str]) -> None:
    names = [r.name for r in coupling.blocks]
    for name in drop:
        if name not in names:
            raise UnknownName.of("residual block", name, names)


def selected(
    model: nn.Module,
    coupling: Coupling,
    scores: tuple[Floats, ...],
    goal: Target | None,
    method: Method,
    rates: Rates | None,
    widths: Mapping[str, int] | None,
    drop: Sequence[str],
    layout: str,
    rule: str,
) -> tuple[Ints, ...]:
    """Kept channels of every group."""
    if goal is not None:
        return to_budget(coupling, scores, goal, drop, scope=method.scope)
    if rates is not None:
        return to_widths(coupling, scores, from_rates(model, coupling, rates, layout, rule))
    return to_widths(coupling, scores, from_widths(coupling, widths or {}))


def remarks(coupling: Coupling, goal: Target | None, plan: Plan, drop: Sequence[str]) -> tuple[str, ...]:
    """What the granularity allowed, where it is more than half a percent of the dense cost below the budget."""
    if goal is None:
        return ()
    import numpy as np

    dense = Costs.of(coupling)(np.array(coupling.widths))
    got = Costs.of(coupling, drop)(np.array(plan.widths))
    limits = goal.limits({kind: float(v) for kind, v in dense.items()})
    slack = {kind: (limit - got[kind]) / dense[kind] for kind, limit in limits.items()}
    if not slack or min(slack.values()) <= 0.005:
        return ()
    tight = min(slack, key=lambda kind: slack[kind])
    return (
        f"{tight}: {100 * got[tight] / dense[tight]:.2f} % got, {100 * limits[tight] / dense[tight]:.2f} % asked; "
        "the steps that are left are larger than the difference",
    )
