"""From scores and a target to the channels that stay.

Steps are taken by ascending (score, group, index) until every budget holds; then, in reverse, each step that still
fits is restored. Both passes use exact integer costs: linear forms of the kept widths, multiplied.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import TargetError
from .graph.coupling import Coupling, Form, Group
from .target import Target
from .timing import Timing, first_within, given_back, least_seconds, regained

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
LARGEST = 1e300  # of a score: sums over a group stay finite


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of all widths at once: Σ times × Π (fixed + A · widths), for MACs and for parameters."""

    fixed: Ints  # (forms,)
    entries: tuple[Ints, Ints, Ints]  # of A that are not 0: form, group, value
    terms: Mapping[str, tuple[Ints, Ints]]  # kind -> times (n,), forms (n, k); form 0 is the constant 1
    constant: Mapping[str, int]
    samples: Mapping[str, int]
    counts: Ints  # (groups,): 1 where the group's channels count, 0 where it went with a dropped branch

    def __call__(self, widths: Ints) -> dict[str, int]:
        """Absolute cost of each kind at these kept widths."""
        form, group, value = self.entries
        sizes = self.fixed.copy()
        np.add.at(sizes, form, value * widths[group])
        found = {
            kind: (self.constant[kind] + int((times * sizes[forms].prod(axis=1)).sum())) // self.samples[kind]
            for kind, (times, forms) in self.terms.items()
        }
        return found | {"channels": int(widths @ self.counts)}

    @property
    def matrix(self) -> Ints:
        """A, (forms, groups)."""
        dense = np.zeros((self.fixed.size, self.counts.size), np.int64)
        np.add.at(dense, self.entries[:2], self.entries[2])
        return dense

    @classmethod
    def of(cls, coupling: Coupling, dropped: Sequence[str] = ()) -> Costs:
        """The costs of a coupling, some of its residual branches dropped."""
        ops, tensors, groups = coupling.without(dropped)
        forms: dict[Form, int] = {Form(1): 0}

        def column(factors: Sequence[Form]) -> list[int]:
            return [forms.setdefault(form, len(forms)) for form in factors]

        macs = [(w.times, column(w.factors)) for w in coupling.work if w.op not in ops]
        params = [(1, column(fs)) for name, fs in coupling.tensors.items() if name not in tensors]
        found = [(row, g, times) for form, row in forms.items() for g, times in form.terms]
        rows, groups_, times = np.array(found, np.int64).reshape(-1, 3).T
        return cls(
            np.array([f.fixed for f in forms], np.int64),
            (rows, groups_, times),
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
    return ranks.reshape(-1), np.repeat(means(scores[ranks]), group.parts)


def means(rows: Floats) -> Floats:
    """The mean of each row, never outside it: rounding would part steps of different size whose scores are equal."""
    found: Floats = np.clip(rows.mean(axis=1), rows.min(axis=1), rows.max(axis=1))
    return found


def steps_of(group: Group, scores: Floats, target: Target) -> Steps:
    """Every legal removal under `round`, `min` and `max_rate`. Keeping the dense width is always legal."""
    order, value = removal_order(group, scores)
    entries = next((m.positions.shape[1] for m in group.members if m.role == "out"), 1)
    quantum = math.lcm(group.step, target.round_to // math.gcd(target.round_to, entries))
    floor = max(1, target.min_channels, math.ceil(group.width * (1 - target.max_rate) - 1e-9))
    widths = np.arange((group.width - 1) // quantum * quantum, max(floor, quantum) - 1, -quantum, dtype=np.int64)
    ends = group.width - widths
    if not ends.size:
        return Steps(order, ends, np.zeros(0), value)
    # The first step takes what is beside a multiple of the quantum.
    first, later = value[None, : ends[0]], value[ends[0] : ends[-1]].reshape(-1, quantum)
    return Steps(order, ends, np.concatenate([means(first), means(later)]), value)


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
    if not times.size:
        return Unit(np.array(linked), ends - before, np.zeros(0), np.zeros(0))
    rows = []
    for k, g in enumerate(linked):
        a, b, own = before[:, k], ends[:, k], steps[g].values
        rows.append(np.clip(np.add.reduceat(own[: b[-1]], a) / (b - a), own[a], own[b - 1]))
    return Unit(np.array(linked), ends - before, means(np.stack(rows, axis=1)), ends[:, 0] / widths[0])


def check_scores(coupling: Coupling, scores: Sequence[Floats]) -> None:
    """One finite score a channel."""
    if len(scores) != len(coupling.groups):
        raise TargetError(f"{len(coupling.groups)} groups got {len(scores)} lists of scores")
    for group, score in zip(coupling.groups, scores, strict=True):
        if score.shape != (group.width,):
            raise TargetError(f"group {group.name} has {group.width} channels and got {score.shape} scores")
        if not (np.abs(score) <= LARGEST).all():
            size = f"beyond ±{LARGEST:g}" if np.isfinite(score).all() else "that are not finite"
            raise TargetError(f"group {group.name} got scores {size}")


def to_budget(
    coupling: Coupling,
    scores: Sequence[Floats],
    target: Target,
    dropped: Sequence[str] = (),
    *,
    scope: str | None = None,
    most: Sequence[int] | None = None,
    timing: Timing | None = None,
) -> tuple[Ints, ...]:
    """Kept channels of each group, ascending, so that every budget of the target holds and no removed step fits back.

    `scores[g]` has one number a channel, low goes first. `scope` overrides the target's. `most[g]` is what an earlier
    cut left of a group: the channels below, in the order of the scores, are gone and stay so. `timing` is what a target
    with a latency needs: the predicted seconds are one more budget, with the limit that it says, and `prunus.timing`
    says what fits back. The order of the steps is that of the scores all the same: a step inside a plateau of the
    seconds saves nothing by itself, so seconds a step are no measure of its worth; what the seconds decide is how far
    the order is followed, and what comes back. Raises TargetError, with the smallest possible cost, where the target
    cannot be met.
    """
    ranked = ranking(coupling, scores, target, dropped, scope=scope, most=most)
    whole = Costs.of(coupling)(np.array(coupling.widths, np.int64))
    known = {kind: float(value) for kind, value in whole.items()}
    limits = target.limits(known if timing is None else known | {"latency": timing.dense})
    limits.pop("latency", None)
    costs = Costs.of(coupling, dropped)

    def fits(widths: Ints) -> bool:
        now = costs(widths)
        return all(now[kind] <= limit for kind, limit in limits.items())

    low, high = ranked.least, ranked.count
    if not fits(ranked.widths(high)):
        raise impossible(limits, costs(ranked.widths(high)), whole)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(ranked.widths(middle)) else (middle + 1, high)
    if timing is not None:
        found = first_within(timing, ranked.path, low, ranked.count)
        if found is None:
            raise too_slow(timing, least_seconds(timing, ranked.path, low, ranked.count))
        low = found
    widths = ranked.widths(low)
    if target.fill:
        back = slice(ranked.least, low)
        steps = (ranked.unit[back], ranked.group[back], ranked.size[back])
        if timing is None:
            widths = restored(widths, *steps, fits)
        else:
            widths = restored(widths, *steps, lambda trial: fits(trial) and timing.fits(trial))
            widths = regained(widths, ranked.widths(ranked.least), *steps, fits, timing)
    return ranked.kept(widths)


@dataclass(frozen=True, eq=False)
class Ranking:
    """All steps in the order in which they go. unit, group, size: of each step, the unit that it is one of, and what it
    takes of which groups; rows are filled up with a group of none. least: steps that went before."""

    groups: Sequence[Group]
    steps: Sequence[Steps]
    unit: Ints
    group: Ints  # (steps, linked)
    size: Ints
    least: int

    @property
    def count(self) -> int:
        return self.unit.size

    def widths(self, taken: int) -> Ints:
        """Of all groups, after so many steps."""
        dense = np.array([group.width for group in self.groups], np.int64)
        weights = self.size[:taken].reshape(-1)
        gone = np.bincount(self.group[:taken].reshape(-1), weights=weights, minlength=dense.size + 1)
        return dense - gone[: dense.size].astype(np.int64)

    def path(self, start: int, stop: int) -> Ints:
        """The widths after `start`, …, `stop` − 1 steps: (cuts, groups)."""
        more = given_back(np.arange(start, stop - 1), self.group, self.size, len(self.groups))
        first = self.widths(start)
        gone: Ints = np.concatenate([np.zeros((1, first.size), np.int64), more])
        return first - gone

    def kept(self, widths: Ints) -> tuple[Ints, ...]:
        """The channels that stay at these widths."""
        return tuple(
            np.sort(s.order[g.width - w :]) if s.order.size else np.arange(w)
            for g, s, w in zip(self.groups, self.steps, widths.tolist(), strict=True)
        )


def ranking(
    coupling: Coupling,
    scores: Sequence[Floats],
    target: Target,
    dropped: Sequence[str] = (),
    *,
    scope: str | None = None,
    most: Sequence[int] | None = None,
) -> Ranking:
    """The order in which `to_budget` takes steps. Raises TargetError."""
    check_scores(coupling, scores)
    if scope not in (None, "global", "local"):
        raise TargetError(f"scope={scope!r} is neither global nor local")
    dense = np.array(coupling.widths, np.int64)
    gone = coupling.without(dropped)[2]
    steps = [
        NONE if i in gone else steps_of(g, s, target)
        for i, (g, s) in enumerate(zip(coupling.groups, scores, strict=True))
    ]
    units = units_of(coupling, steps, gone)
    if not units:  # only whole branches go
        none = np.zeros((0, 1), np.int64)
        return Ranking(coupling.groups, steps, none[:, 0], none, none, 0)
    unit = np.concatenate([np.full(u.scores.size, k) for k, u in enumerate(units)]).astype(np.int64)
    nth = np.concatenate([np.arange(u.scores.size) for u in units]).astype(np.int64)
    if (scope or target.scope) == "local":
        value = np.concatenate([u.fractions for u in units])
    else:
        value = np.concatenate([u.scores for u in units])
    gone_before = dense - (dense if most is None else np.array(most, np.int64))
    first = np.concatenate([np.cumsum(u.sizes[:, 0]) <= gone_before[u.groups[0]] for u in units])
    order = np.lexsort((nth, unit, np.where(first, -np.inf, value)))
    most_linked = max((u.groups.size for u in units), default=1)
    group = np.concatenate([filled(np.tile(u.groups, (u.scores.size, 1)), most_linked, dense.size) for u in units])
    size = np.concatenate([filled(u.sizes, most_linked, 0) for u in units])
    return Ranking(coupling.groups, steps, unit[order], group[order], size[order], int(first.sum()))


def least_possible(
    coupling: Coupling,
    scores: Sequence[Floats],
    target: Target,
    dropped: Sequence[str],
    timing: Timing,
    scope: str | None = None,
) -> float:
    """The fewest seconds that any cut along the order is predicted to take."""
    ranked = ranking(coupling, scores, target, dropped, scope=scope)
    return least_seconds(timing, ranked.path, ranked.least, ranked.count)


def too_slow(timing: Timing, least: float) -> TargetError:
    """The refusal, with what would be possible."""
    asked, smallest = (f"{1e3 * s:.3g} ms ({100 * s / timing.dense:.2f} %)" for s in (timing.limit, least))
    return TargetError(
        f"the target cannot be met: latency asks for at most {asked}, the smallest possible is {smallest}, as predicted"
    )


def filled(rows: Ints, width: int, value: int) -> Ints:
    """Rows made longer."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=value)


def restored(widths: Ints, units: Ints, groups: Ints, sizes: Ints, fits: Callable[[Ints], bool]) -> Ints:
    """Give back, last taken first, each step that still fits. A unit whose last step does not fit never fits again, so
    only the last step of each unit is looked at."""
    order = np.argsort(units, kind="stable")
    _, starts, counts = np.unique(units[order], return_index=True, return_counts=True)
    heap = [
        (-int(order[start + n - 1]), int(start + n - 1), int(start)) for start, n in zip(starts, counts, strict=True)
    ]
    heapq.heapify(heap)
    while heap:
        step, at, start = heapq.heappop(heap)
        trial = np.append(widths, 0)
        trial[groups[-step]] += sizes[-step]
        if fits(trial[:-1]):
            widths = trial[:-1]
            if at > start:
                heapq.heappush(heap, (-int(order[at - 1]), at - 1, start))
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
