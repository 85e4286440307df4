"""From scores and a target to the channels that stay.

Steps are taken by ascending (score, group, index) until every budget holds; then, in reverse, each step that still
fits is restored. Both passes use exact integer costs: linear forms of the kept widths, multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import TargetError
from .graph.coupling import Coupling, Form, Group
from .target import Target

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of all widths at once: Σ times × Π (fixed + A · widths), for MACs and for parameters."""

    fixed: Ints  # (forms,)
    matrix: Ints  # (forms, groups)
    terms: Mapping[str, tuple[Ints, Ints]]  # kind -> times (n,), forms (n, k); form 0 is the constant 1
    constant: Mapping[str, int]
    samples: Mapping[str, int]
    counts: Ints  # (groups,): 1 where the group's channels count, 0 where it went with a dropped branch

    def __call__(self, widths: Ints) -> dict[str, int]:
        """Absolute cost of each kind at these kept widths."""
        sizes = self.fixed + self.matrix @ widths
        found = {
            kind: (self.constant[kind] + int((times * sizes[forms].prod(axis=1)).sum())) // self.samples[kind]
            for kind, (times, forms) in self.terms.items()
        }
        return found | {"channels": int(widths @ self.counts)}

    @classmethod
    def of(cls, coupling: Coupling, dropped: Sequence[str] = ()) -> Costs:
        """The costs of a coupling, some of its residual branches dropped."""
        ops, tensors, groups = coupling.without(dropped)
        forms: dict[Form, int] = {Form(1): 0}

        def column(factors: Sequence[Form]) -> list[int]:
            return [forms.setdefault(form, len(forms)) for form in factors]

        macs = [(w.times, column(w.factors)) for w in coupling.work if w.op not in ops]
        params = [(1, column(fs)) for name, fs in coupling.tensors.items() if name not in tensors]
        matrix = np.zeros((len(forms), len(coupling.groups)), np.int64)
        for form, row in forms.items():
            for g, times in form.terms:
                matrix[row, g] += times
        return cls(
            np.array([f.fixed for f in forms], np.int64),
            matrix,
            {"macs": table(macs), "params": table(params)},
            {"macs": coupling.fixed_macs, "params": 0},
            {"macs": coupling.samples, "params": 1},
            np.array([g not in groups for g in range(len(coupling.groups))], np.int64),
        )


def table(rows: Sequence[tuple[int, list[int]]]) -> tuple[Ints, Ints]:
    """Times and form indices, padded with the constant 1."""
    width = max((len(forms) for _, forms in rows), default=0)
    return (
        np.array([times for times, _ in rows], np.int64),
        np.array([forms + [0] * (width - len(forms)) for _, forms in rows], np.int64).reshape(len(rows), width),
    )


@dataclass(frozen=True, eq=False)
class Steps:
    """The removals that a group allows, cheapest score first: `order[ends[k-1]:ends[k]]` goes at step k."""

    order: Ints
    ends: Ints
    scores: Floats
    values: Floats  # of the channels, in that order


NONE = Steps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


def removal_order(group: Group, scores: Floats) -> tuple[Ints, Floats]:
    """Channels by ascending (score, index), `group.step` at a time: one of every block."""
    order = np.argsort(scores, kind="stable").astype(np.int64)
    if group.blocks is None:
        return order, scores[order]
    ranks = np.stack([order[group.blocks[order] == b] for b in range(group.parts)], axis=1)
    return ranks.reshape(-1), np.repeat(scores[ranks].mean(axis=1), group.parts)


def steps_of(group: Group, scores: Floats, target: Target) -> Steps:
    """Every legal removal under `round`, `min` and `max_rate`. Keeping the dense width is always legal."""
    order, value = removal_order(group, scores)
    entries = next((m.positions.shape[1] for m in group.members if m.role == "out"), 1)
    quantum = math.lcm(group.step, target.round_to // math.gcd(target.round_to, entries))
    floor = max(1, target.min_channels, math.ceil(group.width * (1 - target.max_rate) - 1e-9))
    widths = np.arange((group.width - 1) // quantum * quantum, max(floor, quantum) - 1, -quantum, dtype=np.int64)
    ends = group.width - widths
    starts = np.concatenate([[0], ends]).astype(np.int64)[:-1]
    means = np.array([value[a:b].mean() for a, b in zip(starts, ends, strict=True)], np.float64)
    # Means of equal scores over steps of different size differ in the last bit; the order within a group is fixed.
    return Steps(order, ends, np.maximum.accumulate(means) if means.size else means, value)


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups whose steps are taken together: most often one group, else linked ones. `sizes[k]` is what step k takes
    of each group."""

    groups: Ints
    sizes: Ints  # (steps, groups)
    scores: Floats
    fractions: Floats  # of the dense width, gone after each step


def units_of(coupling: Coupling, steps: Sequence[Steps], gone: frozenset[int]) -> list[Unit]:
    """Steps that keep the same share of all linked groups; groups that went with a dropped branch take no part."""
    sets = [tuple(g for g in linked if g not in gone) for linked in coupling.links]
    bound = {g for linked in sets for g in linked}
    sets += [(g,) for g in range(len(coupling.groups)) if g not in bound]
    return [together(coupling, linked, steps) for linked in sorted(sets) if linked]


def together(coupling: Coupling, linked: tuple[int, ...], steps: Sequence[Steps]) -> Unit:
    """The steps that all groups of a link allow. A joint step scores the mean over its groups."""
    widths = np.array([coupling.groups[g].width for g in linked], np.int64)
    if len(linked) == 1:
        mine = steps[linked[0]]
        return Unit(np.array(linked), np.diff(mine.ends, prepend=0)[:, None], mine.scores, mine.ends / widths[0])
    units = np.array([coupling.groups[g].unit for g in linked], np.int64)
    taken = [steps[g].ends[steps[g].ends % u == 0] // u for g, u in zip(linked, units, strict=True)]
    times = taken[0]
    for other in taken[1:]:
        times = np.intersect1d(times, other)
    ends = times[:, None] * units
    before = np.concatenate([np.zeros((1, len(linked)), np.int64), ends])[:-1]
    value = np.zeros(times.size)
    for k, g in enumerate(linked):
        sums = np.concatenate([[0.0], np.cumsum(steps[g].values)])
        value += (sums[ends[:, k]] - sums[before[:, k]]) / (ends[:, k] - before[:, k]) / len(linked)
    scores = np.maximum.accumulate(value) if value.size else value
    return Unit(np.array(linked), ends - before, scores, ends[:, 0] / widths[0])


def check_scores(coupling: Coupling, scores: Sequence[Floats]) -> None:
    """One finite score a channel."""
    if len(scores) != len(coupling.groups):
        raise TargetError(f"{len(coupling.groups)} groups got {len(scores)} lists of scores")
    for group, score in zip(coupling.groups, scores, strict=True):
        if score.shape != (group.width,):
            raise TargetError(f"group {group.name} has {group.width} channels and got {score.shape} scores")
        if not np.isfinite(score).all():
            raise TargetError(f"group {group.name} got scores that are not finite")


def to_budget(
    coupling: Coupling,
    scores: Sequence[Floats],
    target: Target,
    dropped: Sequence[str] = (),
    *,
    scope: str | None = None,
    most: Sequence[int] | None = None,
) -> tuple[Ints, ...]:
    """Kept channels of each group, ascending, so that every budget of the target holds and no removed step fits back.

    `scores[g]` has one number a channel, low goes first. `scope` overrides the target's. `most[g]` is what an earlier
    cut left of a group: the channels below, in the order of the scores, are gone and stay so. Raises TargetError, with
    the smallest possible cost, where the target cannot be met.
    """
    check_scores(coupling, scores)
    if scope not in (None, "global", "local"):
        raise TargetError(f"scope={scope!r} is neither global nor local")
    dense = np.array(coupling.widths, np.int64)
    limits = target.limits({kind: float(value) for kind, value in Costs.of(coupling)(dense).items()})
    costs = Costs.of(coupling, dropped)
    gone = coupling.without(dropped)[2]
    steps = [
        NONE if i in gone else steps_of(g, s, target)
        for i, (g, s) in enumerate(zip(coupling.groups, scores, strict=True))
    ]
    units = units_of(coupling, steps, gone)
    unit = np.concatenate([np.full(u.scores.size, k) for k, u in enumerate(units)]).astype(np.int64)
    nth = np.concatenate([np.arange(u.scores.size) for u in units]).astype(np.int64)
    if (scope or target.scope) == "local":
        value = np.concatenate([u.fractions for u in units])
    else:
        value = np.concatenate([u.scores for u in units])
    gone_before = dense - (dense if most is None else np.array(most, np.int64))
    first = np.concatenate([np.cumsum(u.sizes[:, 0]) <= gone_before[u.groups[0]] for u in units])
    order = np.lexsort((nth, unit, np.where(first, -np.inf, value)))
    # What each step takes of each of its groups, in the order of the steps.
    group = [units[u].groups for u in unit[order].tolist()]
    size = [units[u].sizes[k] for u, k in zip(unit[order].tolist(), nth[order].tolist(), strict=True)]
    ends = np.cumsum([0, *map(len, group)])
    flat = [np.concatenate(part).astype(np.int64) if part else np.zeros(0, np.int64) for part in (group, size)]

    def widths_after(taken: int) -> Ints:
        groups, sizes = flat[0][: ends[taken]], flat[1][: ends[taken]]
        return dense - np.bincount(groups, weights=sizes, minlength=dense.size).astype(np.int64)

    def fits(widths: Ints) -> bool:
        now = costs(widths)
        return all(now[kind] <= limit for kind, limit in limits.items())

    least, high = int(first.sum()), order.size
    low = least
    if not fits(widths_after(high)):
        raise impossible(limits, costs(widths_after(high)), Costs.of(coupling)(dense))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(widths_after(middle)) else (middle + 1, high)
    widths = widths_after(low)
    if target.fill:
        back = slice(least, low)
        widths = restored(widths, unit[order[back]].tolist(), group[back], size[back], fits)
    return tuple(
        np.sort(s.order[g.width - w :]) if s.order.size else np.arange(w)
        for g, s, w in zip(coupling.groups, steps, widths.tolist(), strict=True)
    )


def restored(widths: Ints, units: list[int], groups: list[Ints], sizes: list[Ints], fits: object) -> Ints:
    """Give back, last taken first, each step that still fits. A unit whose last step does not fit never fits again."""
    assert callable(fits)
    open_ = set(units)
    for unit, group, size in zip(reversed(units), reversed(groups), reversed(sizes), strict=True):
        if unit in open_:
            trial = widths.copy()
            trial[group] += size
            if fits(trial):
                widths = trial
            else:
                open_.remove(unit)
                if not open_:
                    break
    return widths


def impossible(limits: Mapping[str, float], least: Mapping[str, int], dense: Mapping[str, int]) -> TargetError:
    """The refusal, with what would be possible."""
    parts = [
        f"{kind} asks for at most {limit:,.0f} ({100 * limit / dense[kind]:.2f} %), the smallest possible is "
        f"{least[kind]:,} ({100 * least[kind] / dense[kind]:.2f} %)"
        for kind, limit in limits.items()
        if least[kind] > limit
    ]
    return TargetError("the target cannot be met: " + "; ".join(parts))


def to_widths(coupling: Coupling, scores: Sequence[Floats], widths: Sequence[int]) -> tuple[Ints, ...]:
    """Kept channels of each group, ascending: the highest-scored `widths[g]` of it."""
    check_scores(coupling, scores)
    widths = followed(coupling, widths)
    kept = []
    for group, score, width in zip(coupling.groups, scores, widths, strict=True):
        if not 1 <= width <= group.width:
            raise TargetError(f"group {group.name} has {group.width} channels and cannot keep {width}")
        if width % group.step:
            raise TargetError(f"group {group.name} must keep a multiple of {group.step} channels, not {width}")
        order, _ = removal_order(group, score)
        kept.append(np.sort(order[group.width - width :]))
    return tuple(kept)


def followed(coupling: Coupling, widths: Sequence[int]) -> list[int]:
    """Widths in which groups that were left dense follow the groups that they are linked to."""
    found = list(widths)
    for linked in coupling.links:
        asked = {g: found[g] for g in linked if found[g] != coupling.groups[g].width}
        shares = {width // coupling.groups[g].unit for g, width in asked.items()}
        if len(shares) > 1:
            told = ", ".join(
                f"{coupling.groups[g].name} {width} of {coupling.groups[g].width}" for g, width in asked.items()
            )
            raise TargetError(f"linked groups keep the same share of their channels, and these were asked for: {told}")
        for g in linked if shares else ():
            found[g] = min(shares) * coupling.groups[g].unit if g not in asked else found[g]
    return found
