"""How alike the cuts of several seeds are: for each group the mean Jaccard index of the kept channels of two seeds.

The index of two sets is the size of what both hold over the size of what either holds: 1 for the same channels, 0 for
none in common. Two random choices of a and b out of n channels share about ab/n, which is what they are held against.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from prunus.lab.figures import sequence, table
from prunus.lab.runs import Entry

__all__ = ["Agreement", "agreement", "jaccard"]


@dataclass(frozen=True)
class Agreement:
    """One group: its width, the mean of what the seeds keep, the mean index over the pairs of seeds, and the index
    that random choices of these sizes would have."""

    group: str
    width: int
    kept: float
    index: float
    chance: float


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """|a ∩ b| / |a ∪ b|; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def agreement(entry: Entry) -> list[Agreement]:
    """Of every group in which something was removed, over the seeds that are done; none for one seed, or where the
    plans are of different networks."""
    plans = [plan for run in entry.done if (plan := _plan(run.folder / "plan.json"))]
    if len(plans) < 2 or any(plan.keys() != plans[0].keys() for plan in plans):
        return []
    found = []
    for name, (width, _) in plans[0].items():
        sets = [plan[name][1] for plan in plans]
        if any(plan[name][0] != width for plan in plans):
            return []
        if all(len(kept) == width for kept in sets):
            continue
        pairs = list(itertools.combinations(sets, 2))
        index = fmean(jaccard(a, b) for a, b in pairs)
        chance = fmean(_chance(len(a), len(b), width) for a, b in pairs)
        found.append(Agreement(name, width, fmean(map(len, sets)), index, chance))
    return found


def _chance(a: int, b: int, n: int) -> float:
    both = a * b / n if n else 0.0
    return both / (a + b - both) if a or b else 1.0


def _plan(path: Path) -> dict[str, tuple[int, frozenset[int]]]:
    """Width and kept channels of each group; nothing where the file is missing or no plan."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    found = {}
    for group in map(table, sequence(table(content).get("groups"))):
        kept: Sequence[Any] = sequence(group.get("kept"))
        width = group.get("width")
        if not isinstance(width, int) or not all(isinstance(one, int) for one in kept):
            return {}
        found[str(group.get("name"))] = width, frozenset(kept)
    return found
