"""prune() in five steps: trace, score, select, cut, prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from .asked import check_blocks, check_example, names, not_yet, the_model, the_target
from .costs import Cost, cost
from .graph.coupling import Coupling
from .graph.trace import nothing
from .methods import Method, method_of
from .methods.score import scores_of
from .plan import Plan, plan_for
from .result import Pruned
from .select import Costs, to_budget, to_widths
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
    drop: str | Iterable[str] = (),
    pin: str | nn.Module | Iterable[str | nn.Module] = (),
    rates_layout: str = "published",
    keep_rule: str = "exact",
    check: bool = True,
    seed: int = 0,
    data: Any = None,
    loss: Any = None,
    evaluate: Any = None,
    repair: Any = (),
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
    dense, drop, chosen = the_model(model), names(drop), method_of(method)
    goal = the_target(target, rates, widths, drop)
    not_yet(
        data=data, loss=loss, evaluate=evaluate, repair=repair, between=between, steps=None if steps == 1 else steps
    )
    coupling = trace(dense, example, pin=pin)
    check_blocks(coupling, drop)
    if not coupling.groups and not drop:
        raise nothing(coupling)
    scores = scores_of(chosen, dense, coupling, seed)
    notes: tuple[str, ...] = ()
    if goal is not None:
        kept = to_budget(coupling, scores, goal, drop, scope=getattr(chosen, "scope", None))
        notes = remarks(coupling, goal, [len(k) for k in kept], drop)
    elif rates is not None:
        wanted, notes = from_rates(dense, coupling, rates, rates_layout, keep_rule)
        kept = to_widths(coupling, scores, wanted)
    else:
        kept = to_widths(coupling, scores, from_widths(coupling, {} if widths is None else widths))
    plan = plan_for(coupling, kept, drop)
    small = apply(dense, plan)
    replay(small, plan, example)
    proof = verify(dense, small, plan, example) if check else None
    return Pruned(small, plan, cost(dense, example), cost(small, example), coupling, proof, goal, notes)


def trace(model: nn.Module, example: Any, *, pin: str | nn.Module | Iterable[str | nn.Module] = ()) -> Coupling:
    """What is coupled in `model`: groups, what is pinned and why, unknown ops. Changes nothing.

    A trial cut of one step from every group shows which widths are written down as numbers; those groups are pinned
    too. Raises ExampleError, ModelError, UnknownName.
    """
    dense = the_model(model)
    check_example(example)
    return counted(settle(dense, example, names(pin)), dense, example)


def counted(coupling: Coupling, model: nn.Module, example: Any) -> Coupling:
    """The coupling with what `cost` counts beside it: ops without a rule of their own are fixed work."""
    sample = cost(model, example).macs
    if coupling.macs() == sample:
        return coupling
    whole = cost(model, example, whole=True).macs
    fixed = max(0, whole - replace(coupling, samples=1).macs())
    return replace(coupling, fixed_macs=fixed, samples=max(1, round(whole / sample)) if sample else 1)


def inspect(model: nn.Module, example: Any, *, pin: str | nn.Module | Iterable[str | nn.Module] = ()) -> Coupling:
    """Print what `trace` finds, as a tree, and return it."""
    found = trace(model, example, pin=pin)
    print(found)
    return found


def remarks(coupling: Coupling, goal: Target, widths: list[int], drop: tuple[str, ...]) -> tuple[str, ...]:
    """What the granularity allowed, where it is more than half a percent of the dense cost below the budget."""
    dense = Costs.of(coupling)(np.array(coupling.widths, np.int64))
    got = Costs.of(coupling, drop)(np.array(widths, np.int64))
    limits = goal.limits({kind: float(v) for kind, v in dense.items()})
    slack = {kind: (limit - got[kind]) / dense[kind] for kind, limit in limits.items()}
    if not slack or min(slack.values()) <= 0.005:
        return ()
    tight = min(slack, key=lambda kind: slack[kind])
    return (
        f"{tight}: {100 * got[tight] / dense[tight]:.2f} % got, {100 * limits[tight] / dense[tight]:.2f} % asked; "
        "the steps that are left are larger than the difference",
    )
