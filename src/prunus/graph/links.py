"""Groups that keep the same share of their widths: code that says `width = channels // heads` demands it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .coupling import Ints, Solved
    from .labels import Book


def whole(ids: Ints, solved: Solved) -> int | None:
    """The group that these ids are, every channel of it equally often; None where they are none."""
    group = np.unique(solved.group[ids[ids >= 0]]) if (ids >= 0).all() else np.zeros(0, np.int64)
    if group.size != 1 or group[0] < 0:
        return None
    counts = np.bincount(solved.channel[ids], minlength=solved.roots[group[0]].size)
    return int(group[0]) if (counts == counts[0]).all() else None


def sets(book: Book, solved: Solved) -> list[set[int]]:
    """The groups that are linked, directly or through others."""
    found: list[set[int]] = []
    for a, b, _ in book.links:
        one, other = whole(a.numpy(), solved), whole(b.numpy(), solved)
        if one is not None and other is not None and one != other:
            mine = {one, other}
            for there in [s for s in found if s & mine]:
                found.remove(there)
                mine |= there
            found.append(mine)
    return found


def shares(groups: set[int], solved: Solved, blocks: Mapping[int, Ints]) -> int:
    """Into how many equal steps the widths of linked groups divide."""
    parts = {g: int(blocks[g].max()) + 1 if g in blocks else 1 for g in groups}
    return math.gcd(*(solved.roots[g].size // parts[g] for g in groups))


def broken(book: Book, solved: Solved, blocks: Mapping[int, Ints]) -> list[tuple[Ints, Ints]]:
    """Pin what is linked to something that cannot follow. What is returned asks for another solution."""
    again: list[tuple[Ints, Ints]] = []

    def hold(ids: Ints, why: str) -> None:
        free = np.unique(ids[ids >= 0])
        free = free[~solved.pinned[solved.root[free]]]
        if free.size:
            book.pin(torch.from_numpy(free), why)
            again.append((free[:1], free[:1]))

    for a, b, why in book.links:
        ends = (a.numpy(), b.numpy())
        if None in [whole(ids, solved) for ids in ends] and not alike(*ends, solved):
            for mine, other in (ends, ends[::-1]):
                hold(mine, f"{why}, and {cause(other, solved)}")
    for groups in sets(book, solved):
        if shares(groups, solved, blocks) == 1:
            why = next(why for a, _, why in book.links if whole(a.numpy(), solved) in groups)
            for g in groups:
                hold(solved.roots[g], f"{why}, and no smaller pair divides")
    return again


def alike(a: Ints, b: Ints, solved: Solved) -> bool:
    """Whether both are the same channels, as often."""
    one, other = (np.sort(np.where(ids < 0, -1, solved.root[np.maximum(ids, 0)])) for ids in (a, b))
    return np.array_equal(one, other)


def cause(ids: Ints, solved: Solved) -> str:
    stuck = [int(r) for r in solved.root[ids[ids >= 0]] if solved.pinned[r]]
    return f"that is pinned: {solved.reason[stuck[0]]}" if stuck else "that is made of several groups"
