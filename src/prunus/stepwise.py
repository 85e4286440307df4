"""One target in several cuts: score, cut, let the user train what is left, and score again on the network as it is.

Every choice is made in the channels of the dense network: those that are gone have the lowest score, so `round`, `min`,
`max_rate` and a local scope mean what they mean in one cut, and the plan at the end cuts the dense network at once.

Proof. Without `between` no weight changes on the way: the last cut is made from the dense network, in one, and proven
against it. With `between` each cut is proven against the network that it was made from, before the user trains; what
training did in between has no masked counterpart. Where it did nothing, the last network is proven against the dense
one all the same.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .asked import the_model
from .costs import cost
from .cutting import Kept, cut, in_one, proven, remarks
from .errors import InputError, UnknownName
from .graph.coupling import Coupling
from .methods.batches import device_of, moved
from .methods.score import Floats, Given, Method, scores_of
from .narrowing import alive, narrowed
from .plan import Plan, plan_for
from .result import Pruned
from .select import Costs, check_scores, followed, to_budget, to_widths
from .surgery import Proof, apply, verify, worst_of
from .surgery.cut import check_fingerprint
from .target import Target

__all__ = ["Aim", "Between", "Steps", "stepwise"]

Between = Callable[[nn.Module, int], Any]
"""`between(small_model, k)` after cut k = 1, 2, …: trains in place. What it returns does not count; another model is
refused."""

SCHEDULES = ("linear", "cubic")


@dataclass(frozen=True)
class Steps:
    """How many cuts lead to a target, and what share of the way each has gone.

    linear: k/K after cut k of K. cubic: 1 − (1 − k/K)³, most of it early (Zhu & Gupta 2017, arXiv:1710.01878, equation
    1, from nothing removed).
    """

    count: int = 1
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, Integral) or self.count < 1:
            raise InputError(f"steps={self.count!r} is no whole number of 1 or more, nor prunus.Steps(5, 'cubic')")
        object.__setattr__(self, "count", int(self.count))  # NumPy has integers of its own
        if self.schedule not in SCHEDULES:
            raise UnknownName.of("schedule of steps", str(self.schedule), SCHEDULES)

    @classmethod
    def of(cls, given: int | Steps) -> Steps:
        """A number of cuts, or the object itself."""
        return given if isinstance(given, Steps) else cls(given)

    def share(self, k: int) -> Fraction:
        """Of what shall go, what is gone after cut k."""
        left = 1 - Fraction(k, self.count)
        return 1 - (left**3 if self.schedule == "cubic" else left)


@dataclass(frozen=True, eq=False)
class Aim:
    """What stays at the end: a budget (`goal`), or else the width of every group; and the branches that go."""

    coupling: Coupling
    goal: Target | None
    widths: Sequence[int] = ()
    drop: tuple[str, ...] = ()
    scope: str | None = None

    def kept(self, scores: Sequence[Floats], share: Fraction = Fraction(1), most: Sequence[int] | None = None) -> Kept:
        """The ids that stay once this share of the way is gone, of the `most` that are left."""
        if self.goal is None:
            return to_widths(self.coupling, scores, self.on_the_way(share))
        goal = self.goal if share == 1 else eased(self.goal, self.coupling, share)
        return to_budget(self.coupling, scores, goal, self.drop, scope=self.scope, most=most)

    def on_the_way(self, share: Fraction) -> list[int]:
        """Widths that have gone this share of the way, in whole steps. Linked groups go alike."""
        groups, links = self.coupling.groups, self.coupling.links
        wanted = followed(self.coupling, self.widths)
        pace = [group.step for group in groups]
        for linked in links:
            times = math.lcm(*(groups[g].step // groups[g].unit for g in linked))
            for g in linked:
                pace[g] = groups[g].unit * times
        return [
            group.width - math.floor(share * (group.width - width) / step) * step
            for group, width, step in zip(groups, wanted, pace, strict=True)
        ]


def eased(goal: Target, coupling: Coupling, share: Fraction) -> Target:
    """The target with budgets between the dense cost and its own, rounded down to whole amounts."""
    dense = {kind: float(v) for kind, v in Costs.of(coupling)(np.array(coupling.widths, np.int64)).items()}
    amounts = {
        kind: math.floor(Fraction(dense[kind]) - share * (Fraction(dense[kind]) - Fraction(limit)))
        for kind, limit in goal.limits(dense).items()
    }
    return replace(goal, **amounts)  # type: ignore[arg-type]


def stepwise(
    dense: nn.Module,
    example: Any,
    aim: Aim,
    method: Method,
    given: Given,
    *,
    steps: Steps,
    between: Between | None = None,
    check: bool = True,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    examples: Sequence[Any] = (),
) -> Pruned:
    """Cut a copy of `dense` to the aim in so many steps, scored anew at each. Blocks are dropped with the first cut.
    examples: further ones for the proof.

    Raises TargetError at once where the aim cannot be met, ModelError where `between` left weights that are not finite,
    PlanError where it changed the network, ProofError where a cut is not exact.
    """
    coupling, now, here = aim.coupling, dense, aim.coupling
    kept: Kept = [np.arange(group.width) for group in coupling.groups]
    proofs: list[Proof | None] = []
    between = None if steps.count == 1 else between
    if steps.count > 1:
        aim.kept([np.zeros(group.width) for group in coupling.groups])
    for k in range(1, steps.count + 1):
        there = given if now is dense else replace(given, example=on(now, example))
        scores = widened(coupling, here, kept, scores_of(method, now, here, seed, there))
        before, kept = kept, aim.kept(scores, steps.share(k), [ids.size for ids in kept])
        plan = plan_for(coupling, kept, aim.drop)
        if between is None and k < steps.count:
            now = apply(dense, plan)
        elif between is None:
            break
        else:
            step = plan if k == 1 else plan_for(here, inner(coupling, here, before, kept))
            now, proof = proven(now, step, on(now, example), check=check, examples=[on(now, e) for e in examples])
            proofs.append(proof)
        here = narrowed(coupling, plan, now)
        if between is not None and k < steps.count:
            other = between(now, k)
            if isinstance(other, nn.Module) and the_model(other) is not now:
                raise InputError("between returned a model of its own; train the one that it is given, in place")
            check_fingerprint(the_model(now), here.fingerprint)
    if aim.goal is not None:
        notes = (*notes, *remarks(coupling, aim.goal, [len(ids) for ids in kept], aim.drop))
    if between is None:
        return cut(
            dense, example, coupling, kept, drop=aim.drop, check=check, goal=aim.goal, notes=notes, examples=examples
        )
    together = in_one(coupling)
    after = cost(now, on(now, example), whole=together)
    proof = whole(dense, now, plan, example, proofs, examples) if check else None
    return Pruned(
        now, plan, cost(dense, example, whole=together), after, coupling, proof, aim.goal, notes, weakref.ref(dense)
    )


def on(model: nn.Module, example: Any) -> Any:
    """The example where the model is: the user may have trained it elsewhere."""
    return moved(example, device_of(model))


def widened(coupling: Coupling, here: Coupling, kept: Kept, scores: Sequence[Floats]) -> tuple[Floats, ...]:
    """Scores of what is left as scores of the dense channels: what is gone is below all of its group."""
    check_scores(here, scores)
    found = [np.zeros(group.width) for group in coupling.groups]
    for g, score in zip(alive(coupling, here), scores, strict=True):
        low = float(score.min())
        found[g] = np.full(coupling.groups[g].width, low - max(1.0, abs(low)))
        found[g][kept[g]] = score
    return tuple(found)


def inner(coupling: Coupling, here: Coupling, before: Kept, kept: Kept) -> Kept:
    """Dense ids that stay, as places among those that were left before."""
    return [np.searchsorted(before[g], kept[g]) for g in alive(coupling, here)]


def whole(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    example: Any,
    proofs: Sequence[Proof | None],
    examples: Sequence[Any],
) -> Proof:
    """The proof of all cuts: against the dense network if its plan still makes `small`, else the worst of each."""
    if same(apply(dense, plan), small):
        return verify(dense, small, plan, example, examples=examples)
    found = [proof for proof in proofs if proof is not None]
    worst = worst_of(found)
    note = (
        f"the worst of {len(found)} cuts, each proven against the network that it was made from, since the weights "
        "changed in between"
    )
    return replace(worst, notes=(*worst.notes, note))


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same tensors."""

    def tensors(model: nn.Module) -> dict[str, Tensor]:
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}

    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k].to(a[k])) for k in a)
