"""Which residual blocks go: so many of the lowest scores, or as many as compete well with channels for a budget.

**Importance** of a block: a number of at least 0 by the method (`block_scores`) or by the norm of its weights. A count
(`blocks=-2`) takes the lowest.

**Price** of a block, for `blocks=auto`: what a channel must score for a block to be the same bargain. With s_c the
scores of the channels inside the block, m_c the MACs that one of them saves and M those that the block saves,

    price = importance / mean importance · Σ_c s_c / M · mean_c m_c

that is, what its channels are worth for each MAC that goes with them, times the MACs that one channel saves. A block in
which one group of channels carries all MACs costs the mean score of that group. A block without channels of its own
has the mean score of all channels in place of what follows the importance. Channels and blocks then go in one order, by
ascending score or price, until the budget holds. A block is a large step, which may leave the budget far behind: the
last blocks come back, one by one, as long as the channels that then have to go score no more in sum than the channels
of the block do, times its importance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import TargetError
from .graph.coupling import Coupling
from .graph.residual import Residual
from .select import NONE, Costs, steps_of, to_budget, units_of
from .target import AUTO, Target

Floats = npt.NDArray[np.float64]

__all__ = ["bargains", "chosen", "lowest"]


def chosen(
    coupling: Coupling,
    scores: Sequence[Floats],
    importance: Floats,
    goal: Target,
    drop: Sequence[str] = (),
    scope: str | None = None,
) -> tuple[str, ...]:
    """The names of the blocks that go: `drop`, and those that the goal asks for. Raises TargetError."""
    check_importance(coupling, importance)
    if goal.blocks != AUTO:
        return (*drop, *lowest(coupling, importance, -int(goal.blocks), drop))
    if (ranked := scope or goal.scope) != "global":
        raise TargetError(f"blocks=auto ranks blocks and channels together, and scope={ranked} has no one ranking")
    price, worth = bargains(coupling, scores, importance)
    return settled(coupling, scores, worth, goal, drop, below_budget(coupling, scores, price, goal, drop))


def check_importance(coupling: Coupling, importance: Floats) -> None:
    """One finite number of at least 0 for each block."""
    if importance.shape != (len(coupling.blocks),):
        raise TargetError(f"{len(coupling.blocks)} residual blocks got {importance.shape} scores")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise TargetError("scores of residual blocks are finite and at least 0")


def overlap(a: Residual, b: Residual) -> bool:
    """Whether one of them lies in the other."""
    return not a.ops.isdisjoint(b.ops)


def lowest(coupling: Coupling, importance: Floats, count: int, drop: Sequence[str] = ()) -> tuple[str, ...]:
    """The `count` blocks of the lowest importance beside those of `drop`, none inside another. Raises TargetError."""
    taken = [r for r in coupling.blocks if r.name in set(drop)]
    before = len(taken)
    for k in np.argsort(importance, kind="stable").tolist():
        if len(taken) - before < count and not any(overlap(coupling.blocks[k], r) for r in taken):
            taken.append(coupling.blocks[k])
    there = len(taken) - before
    if there < count:
        beside = f" beside {before} in drop=" if before else ""
        has = f"{there} residual block{'' if there == 1 else 's'}" if there else "no residual block"
        kept = "".join(f"; {name} stays: {why}" for name, why in list(coupling.undroppable.items())[:1])
        raise TargetError(f"blocks=-{count}: {has} can be dropped from this model{beside}{kept}")
    return tuple(r.name for r in taken[before:])


def bargains(coupling: Coupling, scores: Sequence[Floats], importance: Floats) -> tuple[Floats, Floats]:
    """The price of each block, see above, and what it is worth in all. Importances that are all 0 count as equal."""
    widths = np.array(coupling.widths, np.int64)
    whole = coupling.macs()
    costs = Costs.of(coupling)
    saves = np.zeros(widths.size)  # by one step of a group, a channel of it
    for g, group in enumerate(coupling.groups):
        less = widths.copy()
        less[g] -= group.step if group.width - group.step >= group.floor else 0
        saves[g] = (whole - costs(less)["macs"]) / group.step
    everything = np.concatenate([np.zeros(0), *scores])
    usual = float(everything.mean()) if everything.size else 1.0
    mean = float(importance.mean()) if importance.size else 0.0
    typical = float(saves @ widths) / max(1, int(widths.sum()))
    price, worth = np.zeros(len(coupling.blocks)), np.zeros(len(coupling.blocks))
    for k, block in enumerate(coupling.blocks):
        ops, _, inside = coupling.without([block.name])
        gone = whole - coupling.macs(without=ops)
        mine = sorted(inside)
        count = int(widths[mine].sum())
        price[k], worth[k] = usual, usual * gone / max(typical, 1.0)
        if count and gone:
            worth[k] = sum(float(scores[g].sum()) for g in mine)
            price[k] = worth[k] / gone * float(saves[mine] @ widths[mine]) / count
    share = importance / mean if mean > 0 else np.ones(importance.size)
    return price * share, worth * share


def settled(
    coupling: Coupling,
    scores: Sequence[Floats],
    worth: Floats,
    goal: Target,
    drop: Sequence[str],
    taken: Sequence[str],
) -> tuple[str, ...]:
    """`taken` (cheapest first) without the last blocks that channels can stand in for at no higher loss."""
    values = {r.name: float(w) for r, w in zip(coupling.blocks, worth, strict=True)}

    def loss(blocks: Sequence[str]) -> float:
        """The scores of all that goes; infinite where the budget cannot be met so."""
        try:
            kept = to_budget(coupling, scores, goal, outermost(coupling, [*drop, *blocks]))
        except TargetError:
            return math.inf
        gone = coupling.without(blocks)[2]
        cut = (float(s.sum() - s[k].sum()) for g, (s, k) in enumerate(zip(scores, kept, strict=True)) if g not in gone)
        return sum(cut) + sum(values[name] for name in blocks)

    taken, now = list(taken), loss(taken)
    while taken and (without := loss(taken[:-1])) <= now and without < math.inf:
        taken, now = taken[:-1], without
    return outermost(coupling, [*drop, *taken])


def below_budget(
    coupling: Coupling, scores: Sequence[Floats], price: Floats, goal: Target, drop: Sequence[str]
) -> tuple[str, ...]:
    """The blocks below the lowest score at which a budget holds if all channels and blocks up to it go, cheapest
    first."""
    dense = np.array(coupling.widths, np.int64)
    limits = goal.limits({kind: float(v) for kind, v in Costs.of(coupling)(dense).items()})
    steps = [steps_of(g, s, goal) for g, s in zip(coupling.groups, scores, strict=True)]

    def fits(blocks: Sequence[str], score: float) -> bool:
        gone = coupling.without(blocks)[2]
        widths = dense.copy()
        for unit in units_of(coupling, [NONE if g in gone else s for g, s in enumerate(steps)], gone):
            widths[unit.groups] -= unit.sizes[: np.searchsorted(unit.scores, score, "right")].sum(axis=0)
        now = Costs.of(coupling, blocks)(widths)
        return all(now[kind] <= limit for kind, limit in limits.items())

    def below(score: float) -> list[str]:
        order = np.argsort(price, kind="stable").tolist()
        return [*drop, *(r.name for k in order if price[k] <= score and (r := coupling.blocks[k]).name not in drop)]

    parts = [unit.scores for unit in units_of(coupling, steps, frozenset())]
    marks = np.unique(np.concatenate([[-np.inf], price, *parts]))
    low, high = 0, marks.size - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(below(float(marks[middle])), float(marks[middle])) else (middle + 1, high)
    return tuple(below(float(marks[low]))[len(drop) :])


def outermost(coupling: Coupling, names: Sequence[str]) -> tuple[str, ...]:
    """Blocks that do not lie in another one of them."""
    blocks = {r.name: r for r in coupling.blocks}
    return tuple(n for n in names if not any(blocks[n].ops < blocks[m].ops for m in names))
