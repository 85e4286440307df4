"""prune() in five steps: trace, score, select, cut, prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .asked import check_blocks, names, not_yet, the_model, the_target
from .costs import Cost, cost
from .cutting import counted, cut, remarks, trace, within
from .graph.coupling import Coupling
from .graph.trace import nothing
from .methods import Method, method_of
from .methods.score import scores_of
from .plan import Plan
from .result import Pruned
from .select import to_widths
from .surgery import apply
from .target import Target
from .widths import Rates, from_rates, from_widths

__all__ = [
    "Cost",
    "Coupling",
    "Plan",
    "Pruned",
    "Target",
    "apply",
    "cost",
    "counted",
    "inspect",
    "prune",
    "remarks",
    "trace",
]


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
    attention: str = "heads",
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
    names modules or tensors that stay whole; `attention` chooses what attention loses, whole "heads" or "width".
    `check=False` skips the proof, never the replay of the kept channels.

    The user's model is not changed. Raises InputError where something passed is wrong (TargetError with the smallest
    possible budget, ModelError where nothing can be pruned), ProofError where the cut is not exact.
    """
    dense, drop, chosen = the_model(model), names(drop), method_of(method)
    goal = the_target(target, rates, widths, drop)
    not_yet(
        data=data, loss=loss, evaluate=evaluate, repair=repair, between=between, steps=None if steps == 1 else steps
    )
    coupling = trace(dense, example, pin=pin, attention=attention)
    check_blocks(coupling, drop)
    if not coupling.groups and not drop:
        raise nothing(coupling)
    scores = scores_of(chosen, dense, coupling, seed)
    notes: tuple[str, ...] = ()
    if goal is not None:
        kept, notes = within(coupling, scores, goal, drop, scope=getattr(chosen, "scope", None))
    elif rates is not None:
        wanted, notes = from_rates(dense, coupling, rates, rates_layout, keep_rule)
        kept = to_widths(coupling, scores, wanted)
    else:
        kept = to_widths(coupling, scores, from_widths(coupling, {} if widths is None else widths))
    return cut(dense, example, coupling, kept, drop=drop, check=check, goal=goal, notes=notes)


def inspect(
    model: nn.Module,
    example: Any,
    *,
    pin: str | nn.Module | Iterable[str | nn.Module] = (),
    attention: str = "heads",
) -> Coupling:
    """Print what `trace` finds, as a tree, and return it."""
    found = trace(model, example, pin=pin, attention=attention)
    print(found)
    return found
