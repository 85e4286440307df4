"""The removals that groups allow, alone or linked, and the order of channels within a group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import TargetError
from ..graph.coupling import Coupling, Group
from ..target import Target
from .costs import Floats, Ints

LARGEST = 1e300  # of a score: sums over a group stay finite


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
    floor = max(group.floor, target.min_channels, math.ceil(group.width * (1 - target.max_rate) - 1e-9))
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
