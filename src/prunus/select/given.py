"""Widths that are given: the best channels of each group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import TargetError
from ..graph.coupling import Coupling
from .costs import Floats, Ints
from .steps import check_scores, removal_order


def to_widths(coupling: Coupling, scores: Sequence[Floats], widths: Sequence[int]) -> tuple[Ints, ...]:
    """Kept channels of each group, ascending: the highest-scored `widths[g]` of it."""
    check_scores(coupling, scores)
    widths = followed(coupling, widths)
    kept = []
    for group, score, width in zip(coupling.groups, scores, widths, strict=True):
        if not 1 <= width <= group.width:
            raise TargetError(f"group {group.name} has {group.width} channels and cannot keep {width}")
        if width < group.floor:
            raise TargetError(f"group {group.name} must keep at least {group.floor} channels, not {width}")
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
