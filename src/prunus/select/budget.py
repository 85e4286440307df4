"""Follow the order until every budget holds, then give back what still fits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import TargetError
from ..graph.coupling import Coupling
from ..target import Target
from ..timing import Timing, first_within, least_seconds, regained
from .costs import Costs, Floats, Ints
from .order import ranking


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


def impossible(limits: Mapping[str, float], least: Mapping[str, int], dense: Mapping[str, int]) -> TargetError:
    """The refusal, with what would be possible."""
    parts = [
        f"{kind} asks for at most {limit:,.0f} ({100 * limit / dense[kind]:.2f} %), the smallest possible is "
        f"{least[kind]:,} ({100 * least[kind] / dense[kind]:.2f} %)"
        for kind, limit in limits.items()
        if least[kind] > limit
    ]
    return TargetError("the target cannot be met: " + "; ".join(parts))


def too_slow(timing: Timing, least: float) -> TargetError:
    """The refusal, with what would be possible."""
    asked, smallest = (f"{1e3 * s:.3g} ms ({100 * s / timing.dense:.2f} %)" for s in (timing.limit, least))
    return TargetError(
        f"the target cannot be met: latency asks for at most {asked}, the smallest possible is {smallest}, as predicted"
    )
