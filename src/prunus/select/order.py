"""All steps of a network in the order in which they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import TargetError
from ..graph.coupling import Coupling, Group
from ..target import SCOPES, Target
from ..timing import given_back
from .costs import Floats, Ints
from .scopes import ranks
from .steps import NONE, Steps, check_scores, steps_of, units_of


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
    if scope not in (None, *SCOPES):
        raise TargetError(f"scope={scope!r} is none of {', '.join(SCOPES)}")
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
    value = ranks(coupling, units, scope or target.scope)
    gone_before = dense - (dense if most is None else np.array(most, np.int64))
    first = np.concatenate([np.cumsum(u.sizes[:, 0]) <= gone_before[u.groups[0]] for u in units])
    order = np.lexsort((nth, unit, np.where(first, -np.inf, value)))
    most_linked = max((u.groups.size for u in units), default=1)
    group = np.concatenate([filled(np.tile(u.groups, (u.scores.size, 1)), most_linked, dense.size) for u in units])
    size = np.concatenate([filled(u.sizes, most_linked, 0) for u in units])
    return Ranking(coupling.groups, steps, unit[order], group[order], size[order], int(first.sum()))


def filled(rows: Ints, width: int, value: int) -> Ints:
    """Rows made longer."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=value)
