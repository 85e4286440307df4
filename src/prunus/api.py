"""prune() in five steps: trace, score, select, cut, prove."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from .asked import check_blocks, check_timed, check_way, further, names, the_model, the_target
from .costs import Cost, cost
from .cutting import counted, cut, remarks, trace
from .errors import InputError
from .graph.assemble import nothing
from .graph.coupling import Coupling
from .latency.aimed import to_latency
from .latency.machine import machine
from .methods import Method, Search, method_of
from .methods.batches import Loss
from .methods.blocks import with_blocks
from .methods.score import Given, check_given, found_by, scores_of, searches
from .plan import Plan
from .repair import Repair, check_repairs, mended, repairs_of
from .result import Pruned
from .state import outside_inference, plain_table
from .stepwise import Aim, Between, Steps, stepwise
from .surgery import apply
from .target import Target
from .widths import Rates, from_rates, from_widths

__all__ = [
    "Cost",
    "Coupling",
    "Plan",
    "Pruned",
    "Steps",
    "Target",
    "apply",
    "cost",
    "counted",
    "inspect",
    "prune",
    "remarks",
    "trace",
]


@outside_inference
def prune(
    model: nn.Module,
    example: Any,
    target: str | Target | None = None,
    method: str | Method | Search = "magnitude",
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
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    repair: str | Repair | Iterable[str | Repair] = (),
    steps: int | Steps = 1,
    between: Between | None = None,
    examples: Iterable[Any] = (),
) -> Pruned:
    """A smaller copy of `model` within a budget, proven to compute what the masked model computes.

    `example` is a tensor, a tuple of positional inputs or a dict of keyword inputs that the model accepts. Say what to
    keep by `target` ("macs=50%", see Target), or by `rates` (fractions removed, a list, its text, or by layer), or by
    `widths` (by layer); `drop` names residual blocks whose branch becomes zero. `method` ranks the channels. `pin`
    names modules or tensors that stay whole; `attention` chooses what attention loses, whole "heads" or "width".
    `examples` are further ones, of other sizes or for other branches of the code: what they demand is honoured, and the
    proof holds for their ways through the code too. `check=False` skips the proof, never the replay of the kept
    channels.

    `data`, batches that start anew each time, `loss(model, batch)` and `evaluate(model)`, higher is better, are for
    methods that need them (see `methods.Method`). `steps` reaches the target in several cuts, a number or `Steps`, each
    scored on what is left, and calls `between(small_model, k)` after cut k, all but the last, to train in place.
    `repair` names what is done for the network after cut and proof, without training: see `prunus.repair.REPAIRS`.
    A target with a latency is met as measured on the runtime of its `on`: see `prunus.latency.aimed`.

    The user's model is not changed. Raises InputError where something passed is wrong (TargetError with the smallest
    possible budget, ModelError where nothing can be pruned), ProofError where the cut is not exact.
    """
    dense, drop, chosen, more = the_model(model), names(drop, "drop"), method_of(method), further(examples)
    example = plain_table(example)
    goal = the_target(target, rates, widths, drop, chosen, timed=True)
    many, repairs = Steps.of(steps), repairs_of(repair)
    given = Given(data, loss, evaluate, example).ranked(chosen, goal)
    check_repairs(repairs, data)
    check_timed(chosen, goal, many.count)
    check_way(chosen, goal, drop, many.count, between)
    check_given(chosen, given, dense)
    if callable(thin := getattr(chosen, "thin", None)):  # single weights: zeros in place of a cut
        if repairs or more:
            told = "examples= extend the proof of a cut" if more else "repair= mends what read removed channels"
            raise InputError(f"{told}, and this method removes no channels")
        return cast("Pruned", thin(dense, example, goal, pin=pin, attention=attention))
    source = None if goal is None or goal.latency is None else machine(goal.on, dense)
    coupling = trace(dense, example, pin=pin, attention=attention, examples=more)
    check_blocks(coupling, drop)
    if not coupling.groups and not drop:
        raise nothing(coupling)
    drop = with_blocks(chosen, dense, coupling, goal, drop, seed, given)
    if goal is not None and searches(chosen) and not drop and many.count == 1:
        kept = found_by(cast("Search", chosen), dense, coupling, goal, seed, given)
        notes = remarks(coupling, goal, [len(ids) for ids in kept], ())
        found = cut(dense, example, coupling, kept, check=check, goal=goal, notes=notes, examples=more)
        return mended(dense, found, repairs, data, example, seed)
    wanted, notes = from_widths(coupling, {} if widths is None else widths), ()
    if rates is not None:
        wanted, notes = from_rates(dense, coupling, rates, rates_layout, keep_rule)
    aim = Aim(coupling, goal, wanted, drop, getattr(chosen, "scope", None))
    method = cast("Method", chosen)
    if goal is not None and source is not None:
        scores = scores_of(method, dense, coupling, seed, given)
        ids, latency, notes = to_latency(dense, example, coupling, scores, goal, drop, scope=aim.scope, source=source)
        found = cut(dense, example, coupling, ids, drop=drop, check=check, goal=goal, notes=notes, examples=more)
        return mended(dense, replace(found, latency=latency), repairs, data, example, seed)
    found = stepwise(
        dense,
        example,
        aim,
        method,
        given,
        steps=many,
        between=between,
        check=check,
        seed=seed,
        notes=notes,
        examples=more,
    )
    return mended(dense, found, repairs, data, example, seed)


def inspect(
    model: nn.Module,
    example: Any,
    *,
    pin: str | nn.Module | Iterable[str | nn.Module] = (),
    attention: str = "heads",
    examples: Iterable[Any] = (),
) -> Coupling:
    """Print what `trace` finds, as a tree, and return it."""
    found = trace(model, example, pin=pin, attention=attention, examples=examples)
    print(found)
    return found
